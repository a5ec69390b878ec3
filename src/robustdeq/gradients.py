"""How a gradient passes a solve. Every rule has the same value in eval mode, z^[N]; they differ in the backward pass.

A rule is called with the solver, the map f(.; u) of one forward, the start z^[0] (B, D) and the number of steps N, one
for all samples or (B,) int64, one each, and returns the packed state (B, D) to be read out. In train mode it may return
another state (Phantom: h_K, as in the papers). Of a tuple of m numbers, ascending, it returns the states of one solve,
the first one's samples first, (m B, D); a rule that knows the graph of one state only refuses that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .checks import Count, PositiveShare, check_count, check_start
from .dynamics import SOLVERS, Broyden, Map, Solver, SolverState, drive
from .options import Registry
from .text import shown

Steps = int | Tensor | tuple[int, ...]
"""How many steps: one number, one a sample (B,) int64, or several ascending ones of one solve."""


class Gradient(ABC):
    """A rule for differentiating a solve; it never changes whether a gradient exists (law 5)."""

    name: ClassVar[str]
    several: ClassVar[bool] = False
    """Whether it can give several states of one solve."""

    def __call__(self, solver: Solver, f: Map, z: Tensor, steps: Steps, *, training: bool = False) -> Tensor:
        check_start(z)
        solver, steps = SOLVERS.resolve(solver), self._checked(steps, z)
        if not training and not torch.is_grad_enabled():
            return reached(solver, f, z, steps)
        return self.solve(solver, f, z, steps, training)

    def _checked(self, steps: Steps, z: Tensor) -> Steps:
        """``steps``, if it is a count, (B,) counts (of no samples any), or ascending numbers that this rule gives."""
        owner = type(self).__name__
        if isinstance(steps, tuple):
            for t in steps:
                check_count(owner, "steps", t)
            if not self.several or not steps or sorted(set(steps)) != list(steps):
                given = f"{owner}: steps={shown(steps)}, several states of one solve"
                raise ValueError(f"{given}; allowed: one number, or ascending ones with the gradient 'unrolled'.")
            return steps
        if not isinstance(steps, Tensor):
            check_count(owner, "steps", steps, 0)
            return steps
        if steps.dtype != torch.int64 or steps.shape != z.shape[:1] or (len(z) and int(steps.min()) < 1):
            kind = f"{owner}: steps are {steps.dtype} of shape {tuple(steps.shape)}"
            raise ValueError(f"{kind}; allowed: a number, or int64 >= 1 of shape ({len(z)},).")
        return steps if len(z) else 1

    @abstractmethod
    def solve(self, solver: Solver, f: Map, z: Tensor, steps: Steps, training: bool) -> Tensor:
        """The state to be read out, with this rule's graph behind it."""


GRADIENTS: Registry[Gradient] = Registry("gradient", Gradient)
"""The gradients by name; ``@GRADIENTS.register`` above a class adds one."""


@GRADIENTS.register
@dataclass(frozen=True)
class Unrolled(Gradient):
    """Through the solver: the exact gradient of readout(z^[N]), the solver's own coefficients included. The default.

    segment: recompute the steps in the backward pass in segments of this length, for long solves; None keeps the graph
        of every step. A solver that runs backwards does so instead, with memory independent of N, where the map can be
        cut off from its graph: ``f.tensors`` names what it closes over, ``f.detached()`` is the same map over leaves of
        its own, in that order. Steps for every sample, and several states of one solve, keep the whole graph.
    """

    name: ClassVar[str] = "unrolled"
    several: ClassVar[bool] = True
    segment: Count | None = None

    def solve(self, solver: Solver, f: Any, z: Tensor, steps: Steps, training: bool) -> Tensor:
        if not isinstance(steps, int):
            return reached(solver, f, z, steps)
        tensors = (z, *getattr(f, "tensors", ())) if torch.is_grad_enabled() and hasattr(f, "detached") else ()
        if solver.runs_backwards and any(tensor.requires_grad for tensor in tensors):
            return _ReversibleSolve.apply(solver, f.detached(), steps, z, *f.tensors)
        if self.segment is None:
            return drive(solver, f, z, steps).z
        state = solver.init(z)
        for start in range(0, steps, self.segment):
            count = min(self.segment, steps - start)
            state = checkpoint(lambda *at: drive(solver, f, *at).state, state, count, use_reentrant=False)
        return state.z


@GRADIENTS.register
@dataclass(frozen=True)
class Phantom(Gradient):
    """The papers' training gradient: from z^[N] without a graph, h_0 = f(z^[N]), then K damped steps with a graph.

    Train mode returns h_K; eval mode returns the value z^[N] with the gradient of h_K.
    """

    name: ClassVar[str] = "phantom"
    unroll: Count = 5
    damping: PositiveShare = 0.5

    def solve(self, solver: Solver, f: Map, z: Tensor, steps: Steps, training: bool) -> Tensor:
        with torch.no_grad():
            final = reached(solver, f, z, steps)
        h = f(final.detach())
        for _ in range(self.unroll):
            h = (1 - self.damping) * h + self.damping * f(h)
        return h if training else _Reroute.apply(h, final, lambda grad: grad)


@GRADIENTS.register
@dataclass(frozen=True)
class Implicit(Gradient):
    """Implicit function theorem at z^[N]: solve (I - J^T) w = dL/dz by a solver. Exact at a fixed point.

    solver: name, options or object of the adjoint solver; steps: its steps (P22: 7 Broyden steps). reuse: begin not at
    zero but at -B^T dL/dz, B the forward solver's own estimate of J_g^-1 (SHINE, Ramzi et al. 2022): fewer steps do.
    """

    name: ClassVar[str] = "implicit"
    solver: Annotated[Any, SOLVERS] = Broyden()  # noqa: RUF009 - immutable
    steps: Count = 7
    reuse: bool = False

    def solve(self, solver: Solver, f: Map, z: Tensor, steps: Steps, training: bool) -> Tensor:
        if self.reuse:
            solver.transposed_inverse(solver.init(z), z)  # an unsuitable solver is refused before the solve
        last = deque[SolverState](maxlen=1)
        with torch.no_grad():
            final = reached(solver, f, z, steps, last.append if self.reuse else None)
        at = final.detach().requires_grad_()  # a new tensor, even where the map gave back one of its own
        h = f(at)

        def adjoint(grad: Tensor) -> Tensor:
            def transport(w: Tensor) -> Tensor:
                return torch.autograd.grad(h, at, w, retain_graph=True, materialize_grads=True)[0]

            zero = torch.zeros_like(grad)
            w, steps = self.begin(grad, -solver.transposed_inverse(last[0], grad) if last else zero, transport)
            return drive(self.solver, lambda w: grad + transport(w), w, steps).z

        return _Reroute.apply(h, final, adjoint)

    def begin(self, grad: Tensor, guess: Tensor, transport: Map) -> tuple[Tensor, int]:
        """Where the adjoint solve begins, and how many steps are left. transport: w (B, D) to J^T w."""
        return guess, self.steps


@dataclass(frozen=True)
class Resumed(Implicit):
    """``Implicit`` whose adjoint solve begins at a multiple of ``mu``, (B, D), an adjoint state found before.

    The multiple is each sample's own, of the least residual; that costs nothing, since the first step needs J^T mu
    anyway. So mu may be that of the loss on another scale.
    """

    mu: Any = None

    def begin(self, grad: Tensor, guess: Tensor, transport: Map) -> tuple[Tensor, int]:
        pulled = transport(self.mu)
        rest = self.mu - pulled
        scale = (rest * grad).sum(1, keepdim=True) / rest.square().sum(1, keepdim=True).clamp_min(1e-30)
        return grad + scale * pulled, self.steps - 1


@GRADIENTS.register
@dataclass(frozen=True)
class SimultaneousAdjoint(Gradient):
    """The adjoint state moved along with the forward iterate (P22 sec. 4.1), one vector-Jacobian product a step.

    w <- w - B_t^T (J_g(z^[t])^T w + dL/dz), with the forward solver's own estimate B_t of the inverse Jacobian of g.
    The forward states and estimates are kept and replayed when dL/dz is known.
    """

    name: ClassVar[str] = "simultaneous"

    def solve(self, solver: Solver, f: Map, z: Tensor, steps: Steps, training: bool) -> Tensor:
        solver.transposed_inverse(solver.init(z), z)  # an unsuitable solver is refused before the solve
        moves: list[SolverState] = []
        same_precision = _precision(z)
        with torch.no_grad():
            final = reached(solver, f, z, steps, moves.append)

        def adjoint(grad: Tensor) -> Tensor:
            w = torch.zeros_like(grad)
            for t, move in enumerate(moves):
                assert move.z_prev is not None  # a step has been taken
                with torch.enable_grad(), same_precision():
                    at = move.z_prev.detach().requires_grad_()
                    h = f(at)
                transported = torch.autograd.grad(h, at, w, materialize_grads=True)[0] - w  # J_g = J_f - I
                moved = w - solver.transposed_inverse(move, transported + grad)
                w = torch.where((t < steps)[:, None].to(w.device), moved, w) if isinstance(steps, Tensor) else moved
            return w

        # One evaluation at z^[N] carries the gradient to what f closes over; the walk above has only made its w.
        return _Reroute.apply(f(final), final, adjoint)


def reached(
    solver: Solver, f: Map, z: Tensor, steps: Steps, observer: Callable[[SolverState], None] | None = None
) -> Tensor:
    """z^[steps], (B, D); of steps (B,) every sample's own, where all samples move until the last one has arrived; of
    several numbers each one's, (m B, D)."""
    observers = [] if observer is None else [observer]
    if isinstance(steps, int):
        return drive(solver, f, z, steps, observers=observers).z
    states: list[Tensor] = []
    most = int(steps.max()) if isinstance(steps, Tensor) else steps[-1]
    drive(solver, f, z, most, observers=[*observers, lambda state: states.append(state.z)])
    if isinstance(steps, tuple):
        return torch.cat([states[t - 1] for t in steps])
    return torch.stack(states)[steps.to(z.device) - 1, torch.arange(len(z), device=z.device)]


def _precision(z: Tensor) -> Callable[[], AbstractContextManager]:
    """The autocast of now, for a backward pass that evaluates f again, perhaps in a thread with another one."""
    device = z.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled=enabled)


class _Reroute(torch.autograd.Function):
    """The value of ``value``, the graph of ``h``; the gradient is passed through ``transform`` on its way."""

    @staticmethod
    def forward(ctx, h: Tensor, value: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.transform = transform
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.transform(grad), None, None


class _ReversibleSolve(torch.autograd.Function):
    """N reversible steps; the backward pass recovers the states by running the iteration backwards.

    With a_t = dL/dz^[t]: a_t += b J_t^T a_{t+1} and a_{t-1} += (1 - b) a_{t+1}; the tensors that f closes over collect
    b (df/dtheta)^T a_{t+1}.
    """

    @staticmethod
    def forward(ctx, solver: Solver, f: Any, steps: int, z: Tensor, *tensors: Tensor) -> Tensor:
        if steps > (most := solver.max_steps(z.dtype)):
            raise ValueError(f"{solver}: steps={steps} cannot be run backwards in {z.dtype}; allowed: at most {most}.")
        # f closes over leaves of its own: a weight made from a parameter once a forward would otherwise be
        # differentiated through at every step, and again by the outer graph.
        ctx.solver, ctx.f, ctx.steps, ctx.same_precision = solver, f, steps, _precision(z)
        state = drive(solver, f, z, steps).state
        # Beside the last two states z^[0] is kept: there a cell is least smooth (at zero a ReLU has its kink and a
        # normalisation its steepest slope), so one recovered with a rounding error would not do.
        ctx.save_for_backward(z, state.z, state.z if state.z_prev is None else state.z_prev, *tensors)
        return state.z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        b = ctx.solver.mixing
        start, z, z_prev, *_ = ctx.saved_tensors  # the rest are saved so that a change in place is noticed
        tensors = ctx.f.tensors
        wanted = [i for i in range(len(tensors)) if ctx.needs_input_grad[4 + i]]
        sums: list[Tensor | None] = [None] * len(tensors)
        # z^[t] acts on z^[t+1] through f and on z^[t+2] directly, so two adjoints are carried: of z^[t+1] and of z^[t].
        a_next, a_here = grad, torch.zeros_like(grad)
        for t in reversed(range(ctx.steps)):  # undo the step z^[t] -> z^[t+1]
            with torch.enable_grad(), ctx.same_precision():
                at = z_prev.detach().requires_grad_()
                f_z = ctx.f(at)
            pulled = torch.autograd.grad(
                f_z, [at, *(tensors[i] for i in wanted)], b * a_next, allow_unused=True, materialize_grads=True
            )
            for i, term in zip(wanted, pulled[1:]):
                sums[i] = term if (before := sums[i]) is None else before + term
            a_next, a_here = a_here + pulled[0], (1 - b) * a_next
            if t:  # from (z^[t], z^[t+1]) to (z^[t-1], z^[t]), of which z^[0] was kept
                z, z_prev = z_prev, (ctx.solver.undo(z, f_z.detach()) if t > 1 else start)
        return None, None, None, a_next + a_here, *sums
