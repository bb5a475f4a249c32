"""The commands of `basicsr`, one per file: its help text, `add_arguments(parser)` and `run(arguments) -> exit code`.

They import what they need in `run`, so that `basicsr --help` does not wait for torch.
"""
