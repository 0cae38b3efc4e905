"""Names of the tasks; alone in a file that imports nothing, for the command line offers them too."""

SEMANTIC, INSTANCE, AUTO = "semantic", "instance", "auto"
TASKS = (AUTO, SEMANTIC, INSTANCE)
