"""Features of any network: the outputs of its named modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from nlcl_plugin.config.schema import suggest
from nlcl_plugin.errors import InputError


class _AllFound(Exception):  # noqa: N818  no error: it ends a forward pass whose rest nobody needs
    pass


class ModuleFeatures:
    """Outputs of named modules of a network that is not trained by what is made of them.

    Args:
        net: The network, without a wrapper for distributed training.
        modules: Names as in `net.named_modules()`. Of a module that runs more than once, the first output is used.
        where: The option's name, for messages.

    Raises:
        InputError: If a module does not exist.
    """

    def __init__(self, net: nn.Module, modules: Sequence[str], where: str) -> None:
        known = dict(net.named_modules())
        for name in modules:
            if name not in known or not name:
                hint = suggest(name, known) or f"; it has {', '.join(dict(net.named_children()))}"
                raise InputError(f"{where}: {type(net).__name__} has no module {name!r}{hint}")
        self.net = net
        self.modules = {name: known[name] for name in modules}
        self.where = where

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it, passes of the network and of its gradient leave its weights and statistics as they are.

        Dropout, batch statistics and the power iteration of spectral norm are off; no random numbers are drawn.
        """
        modes = [(module, module.training) for module in self.net.modules()]
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        for module, _ in modes:  # not `eval`, which some networks override
            module.training = False
        self.net.requires_grad_(False)
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter in trained:
                parameter.requires_grad_(True)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """One (B, C, h, w) per module for images (B, C, H, W); the pass ends as soon as the last module has run.

        Raises:
            InputError: If a module does not run, or returns something else.
        """
        found: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> None:
            if not isinstance(output, Tensor) or output.dim() != 4:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise InputError(
                    f"{self.where}: {name!r} returns {shape}, where features (B, C, H, W) are needed; "
                    "name another module, such as a convolution"
                )
            if name not in found:
                found[name] = output.clone()  # what comes next may change it in place
            if len(found) == len(self.modules):
                raise _AllFound

        with contextlib.ExitStack() as stack:
            for name, module in self.modules.items():
                handle = module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
                stack.callback(handle.remove)
            with contextlib.suppress(_AllFound):
                self.net(images)
        missing = [name for name in self.modules if name not in found]
        if missing:
            raise InputError(f"{self.where}: {missing[0]!r} does not run in a forward pass; name another module")
        return [found[name] for name in self.modules]
