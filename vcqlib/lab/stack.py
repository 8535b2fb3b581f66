"""Many small models trained at once: their parameters lie in one stack, one program runs them all.

A model of this size is too small for a processor: calling an operation costs about as much as
computing it. `torch.func.vmap` turns every operation into one over the whole stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

WARMUP = 50  # steps in which the learning rate rises; after them it stays
AVERAGE = 0.99  # decay of the moving average of the weights
CLIP = 1.0  # largest norm of a model's gradient


class Stack:
    """Equal modules with parameters of their own, trained side by side by AdamW.

    The learning rate is constant after its warm-up. So the state after s steps does not depend on
    how many are to follow: it *is* the end of a run of s steps.

    Args:
        models: modules of one shape that vmap can run; buffers may differ.
        lr, betas, weight_decay: AdamW's.
        steps: let the learning rate fall to nothing over so many steps instead.
    """

    def __init__(
        self, models: Sequence[nn.Module], lr: float, betas: tuple[float, float],
        weight_decay: float = 0.0, steps: int | None = None,
    ) -> None:  # fmt: skip
        self.parameters, self.buffers = stack_module_state(list(models))
        loss = _Loss(models[0])
        self._losses = vmap(lambda *state: functional_call(loss, state[:2], state[2:]))
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(), lr, betas, weight_decay=weight_decay, fused=True
        )
        self._lr, self._steps, self.step = lr, steps, 0
        self._average = [p.detach().clone() for p in self.parameters.values()]

    def train(self, *inputs: Tensor) -> Tensor:
        """One step on inputs [models, B, …]; returns the losses [models] before it."""
        names = {f"model.{k}": v for k, v in self.parameters.items()}
        buffers = {f"model.{k}": v for k, v in self.buffers.items()}
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that vmap knows
            losses = self._losses(names, buffers, *inputs)
        if not torch.isfinite(losses).all():
            raise FloatingPointError(f"loss not finite at step {self.step}: {losses.tolist()}")
        self._optimizer.zero_grad()
        losses.sum().backward()  # no model's loss depends on another's parameters
        self._clip()
        along = 0.0 if self._steps is None else self.step / self._steps
        decay = 0.5 * (1 + math.cos(math.pi * along))
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * min(1.0, (self.step + 1) / WARMUP) * decay
        self._optimizer.step()
        self.step += 1
        with torch.no_grad():
            weight = max(1 - AVERAGE, 9 / (9 + self.step))
            torch._foreach_lerp_(self._average, list(self.parameters.values()), weight)
        return losses.detach()

    @torch.no_grad()
    def _clip(self) -> None:
        """Shorten each model's gradient to CLIP."""
        gradients = [p.grad for p in self.parameters.values()]
        norm = sum(g.flatten(1).square().sum(1) for g in gradients).sqrt()  # [models]
        scale = (CLIP / (norm + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))

    def load_into(self, model: nn.Module, i: int) -> nn.Module:
        """Copy the weights of the i-th model into a module of the library; returns it in eval."""
        state = {**dict(zip(self.parameters, self._average, strict=True)), **self.buffers}
        model.load_state_dict({name: state[name][i].detach() for name in model.state_dict()})
        return model.eval()


class _Loss(nn.Module):
    """A model's `loss` as its forward pass, which is what functional_call calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model.loss(*inputs)


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module whose first weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
