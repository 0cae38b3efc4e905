"""What ITK's libraries print of files they do not like is kept from the terminal; what others print is not."""

import os

import pytest

from autoseg.data.io_guard import quiet

PRINTED = """\
/tmp/build/ITK/Modules/ThirdParty/VNL/src/vxl/core/vnl/algo/vnl_svd.hxx: suspicious return value (4) from SVDC
M = [ ...
-0.50000        0  0.00000 
               0 -0.7500000000000              nan                0 
               0                0  2.0000000000000 1e-38
        0        0  2.00000  ]
** ERROR (nifti_image_read): short header read
"""  # noqa: W291
OTHERS = "epoch 3 of 10\n12 cases are done\n3 fine\nM = 4\nnan\nValueError: 3\n"


def test_only_lines_of_others_are_let_through(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        os.write(2, (PRINTED + OTHERS).encode())
    assert capfd.readouterr().err == OTHERS
