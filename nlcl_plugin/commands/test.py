"""Run a trained model on images; its output goes to results/ in the current folder."""

from nlcl_plugin.commands.train import add_arguments as add_arguments
from nlcl_plugin.commands.train import run as run
