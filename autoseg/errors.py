"""What autoseg raises for what the user can mend. Each message says what was found, where, and what to do.

    AutosegError
    ├── DatasetError      the dataset folder: every problem at once
    ├── ImageError        one file that cannot be read or written
    ├── RunFolderError    a run folder that is locked, incomplete, or was made from something else
    ├── ModelError        a model that cannot be opened or does not fit the images
    ├── OptionError       an option or name that does not exist, or options that contradict each other
    ├── DeviceError       a device that is missing, too small, or computes wrongly
    └── RoomError         main memory or a disk that does not suffice

``planners`` stands below this package and raises its own ``PlanError`` and ``RecordError``; the command line prints
them the same way.
"""


class AutosegError(Exception):
    """Base of all errors that the user can mend; the command line prints the message alone and exits with 2."""


class DatasetError(AutosegError):
    """The dataset cannot be used as it is; the message lists all problems."""


class ImageError(AutosegError):
    """A file cannot be read or written as an image."""


class RunFolderError(AutosegError):
    """A run folder is locked, incomplete, or was made from something else."""


class ModelError(AutosegError):
    """A model cannot be opened, or does not fit the images it is given."""


class OptionError(AutosegError):
    """An option or a name does not exist, or two options contradict each other."""


class DeviceError(AutosegError):
    """A device is missing, too small, or computes wrong numbers."""


class RoomError(AutosegError):
    """Main memory or a disk does not suffice; the message says what was needed and what there is."""
