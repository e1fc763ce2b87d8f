"""The training step: pure, jitted once, donated. Owns no loop, no file and no data.

    TrainState ── train_step(batch, control) ──> TrainState, StepMetrics

Trainable is the adapters' tree under LoRA and the whole weights' tree in full fine-tuning; the
step is the same code. A step's loss is the sum over its supervised tokens divided by their number,
also over micro-batches, so that neither padding nor accumulation changes what is optimized. A
batch that `guard` refuses leaves everything but the step's number as it was.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import Attention, ForwardOptions, Remat, hidden_states
from coderllm_jax.model.fused_attention import can_fuse, can_launch
from coderllm_jax.model.load import LoadedModel
from coderllm_jax.model.lora import init_adapters, is_kernel
from coderllm_jax.model.loss import HeadOptions, LossSums, cross_entropy
from coderllm_jax.model.precision import Precision, resolve_precision
from coderllm_jax.model.quantization import FLOAT_BASE, Base, BaseFormat, Quantized, quantize_kernel
from coderllm_jax.model.sharding import (
    BATCH_AXES,
    batch_sharding,
    host_rows,
    make_mesh,
    replicated,
    row_multiple,
    tree_path,
    tree_shardings,
    weight_spec,
)
from coderllm_jax.model.splash_attention import can_splash
from coderllm_jax.records import PackedBatch
from coderllm_jax.training import guard
from coderllm_jax.training.control import Control, agree, put_control
from coderllm_jax.training.loss_scale import adjust_scale, split_scale, start_scaling
from coderllm_jax.training.memory import Work, projections_fit
from coderllm_jax.training.optimizer import make_optimizer, make_schedule


class TrainState(NamedTuple):
    """What a step changes, a pytree: donated, checkpointed, and nothing else is."""

    step: jax.Array  # int32 []
    trainable: dict[str, Any]  # float32
    opt_state: optax.OptState
    recent: guard.Recent


class StepMetrics(NamedTuple):
    """Scalars on the device; fetch them one step late."""

    loss: jax.Array  # mean over supervised tokens
    loss_tokens: jax.Array  # supervised tokens
    tokens: jax.Array  # positions that are not padding
    grad_norm: jax.Array  # before clipping
    loss_scale: jax.Array  # 1 where nothing is scaled
    learning_rate: jax.Array
    verdict: jax.Array  # index of guard.REASONS: 0 where the batch was learnt from
    control: Control  # what all processes agreed on for this step


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything compiled for one model, mesh and configuration.

    `frozen` is empty in full fine-tuning, where the state holds the weights, and `init_state` may
    be called once only, because it gives the loaded ones away. `abstract_state` has shapes, dtypes
    and shardings of a state, to restore one without making one. `put_batch` takes this host's
    rows; `compiled_step_text` is the optimized module, for those who audit it.
    """

    mesh: Mesh
    frozen: dict[str, Any]
    abstract_state: TrainState
    init_state: Callable[[], TrainState]
    train_step: Callable[..., tuple[TrainState, StepMetrics]]
    put_control: Callable[[Control], jax.Array]
    eval_step: Callable[[TrainState, PackedBatch], LossSums]
    put_batch: Callable[[PackedBatch], PackedBatch]
    compiled_step_text: Callable[[TrainState, PackedBatch], str]
    description: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Outline:
    """A program in shapes, each with its sharding: to be lowered and compiled, never to be run."""

    frozen: dict[str, Any]
    state: TrainState
    batch: PackedBatch
    lower_train_step: Callable[[], jax.stages.Lowered]
    lower_eval_step: Callable[[], jax.stages.Lowered]
    description: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """The static half of a step."""

    architecture: Architecture
    forward: ForwardOptions
    head: HeadOptions
    full: bool
    base: BaseFormat
    accumulation_steps: int
    skip_spikes: float
    seed: int


def build_program(
    config: TrainingConfig,
    model: LoadedModel,
    *,
    num_steps: int,
    mesh: Mesh | None = None,
) -> Program:
    """Lays the model out over the mesh and makes the compiled functions that a run needs.

    Weights that are already placed as the rules say stay where they are, and so do quantized
    ones; float ones are quantized where `lora.base` asks for it. num_steps is the schedule's
    length. mesh: where the caller loaded the model onto one already.
    """
    architecture, weights = model.architecture, model.weights
    mesh = make_mesh(config.mesh) if mesh is None else mesh
    recipe = _recipe(config, architecture, mesh=mesh)
    frozen = _format_weights(weights, recipe)
    frozen = jax.device_put(frozen, tree_shardings(frozen, mesh))
    source = frozen if recipe.full else {}
    init, train, evaluate, abstract_state = _jit_steps(
        config, recipe, source, num_steps=num_steps, mesh=mesh
    )
    # In full fine-tuning the state holds the weights: the step is handed no others.
    kept = {} if recipe.full else frozen
    # The one reference to weights that are trained, so that giving it away frees them.
    given = [source]
    del weights, frozen, source
    put = functools.lru_cache(maxsize=8)(functools.partial(put_control, mesh=mesh))
    # The default is made here: making it in the loop would be a transfer nobody asked for.
    nothing_said = put(Control())

    def train_step(
        state: TrainState, batch: PackedBatch, control: jax.Array = nothing_said
    ) -> tuple[TrainState, StepMetrics]:
        with jax.set_mesh(mesh):
            return train(state, kept, batch, control)

    def eval_step(state: TrainState, batch: PackedBatch) -> LossSums:
        with jax.set_mesh(mesh):
            return evaluate(state, kept, batch)

    def compiled_step_text(state: TrainState, batch: PackedBatch) -> str:
        with jax.set_mesh(mesh):
            return train.lower(state, kept, batch, nothing_said).compile().as_text() or ""

    def init_state() -> TrainState:
        with jax.set_mesh(mesh):
            return init(given.pop() if recipe.full else given[0])

    return Program(
        mesh=mesh,
        frozen=kept,
        abstract_state=abstract_state,
        init_state=init_state,
        train_step=train_step,
        put_control=put,
        eval_step=eval_step,
        put_batch=functools.partial(
            _put_batch,
            mesh=mesh,
            multiple=row_multiple(mesh, config.optimizer.accumulation_steps),
        ),
        compiled_step_text=compiled_step_text,
        description=_describe(recipe, abstract_state, mesh),
    )


def outline_program(
    config: TrainingConfig, architecture: Architecture, *, num_steps: int, mesh: Mesh
) -> Outline:
    """What `build_program` would compile, over shapes: `mesh` may be of devices that nobody has.

    The batch is filled up with empty rows, as a run's is.
    """
    recipe = _recipe(config, architecture, mesh=mesh)
    weights = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        architecture.weight_shapes(),
        is_leaf=lambda node: isinstance(node, tuple),
    )
    frozen = jax.eval_shape(functools.partial(_format_weights, recipe=recipe), weights)
    frozen = _placed(frozen, tree_shardings(frozen, mesh))
    source, kept = (frozen, {}) if recipe.full else ({}, frozen)
    _, train, evaluate, state = _jit_steps(config, recipe, source, num_steps=num_steps, mesh=mesh)
    multiple = row_multiple(mesh, recipe.accumulation_steps)
    shape = (-(-config.batch_size // multiple) * multiple, config.data.sequence_length)
    batch = PackedBatch(
        *(
            jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
            for dtype in (jnp.int32, jnp.int32, jnp.float32, jnp.int32, jnp.int32)
        )
    )
    words = jax.ShapeDtypeStruct(
        (mesh.size, len(Control._fields)),
        jnp.float32,
        sharding=NamedSharding(mesh, P(mesh.axis_names)),
    )

    def lower_train_step() -> jax.stages.Lowered:
        with jax.set_mesh(mesh):
            return train.lower(state, kept, batch, words)

    def lower_eval_step() -> jax.stages.Lowered:
        with jax.set_mesh(mesh):
            return evaluate.lower(state, kept, batch)

    return Outline(
        frozen=kept,
        state=state,
        batch=batch,
        lower_train_step=lower_train_step,
        lower_eval_step=lower_eval_step,
        description=_describe(recipe, state, mesh),
    )


def _jit_steps(
    config: TrainingConfig,
    recipe: _Recipe,
    source: dict[str, Any],
    *,
    num_steps: int,
    mesh: Mesh,
) -> tuple[Any, Any, Any, TrainState]:
    """(init, train, evaluate, abstract state), jitted for a mesh; `init` is to be given `source`.

    num_steps is the schedule's length.
    """
    schedule = make_schedule(
        config.optimizer, learning_rate=config.learning_rate, num_steps=num_steps
    )
    optimizer = make_optimizer(config.optimizer)
    make_state = functools.partial(_new_state, recipe=recipe, config=config, optimizer=optimizer)
    abstract = jax.eval_shape(make_state, source)
    state_shardings = _state_shardings(abstract, mesh)
    rows, whole = batch_sharding(mesh), replicated(mesh)
    batches = PackedBatch(*(rows,) * len(PackedBatch._fields))
    init = jax.jit(make_state, out_shardings=state_shardings)
    train = jax.jit(
        functools.partial(_train_step, recipe=recipe, optimizer=optimizer, schedule=schedule),
        in_shardings=(state_shardings, None, batches, None),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
    )
    evaluate = jax.jit(
        functools.partial(_eval_step, recipe=recipe),
        in_shardings=(state_shardings, None, batches),
        out_shardings=whole,
    )
    return init, train, evaluate, _placed(abstract, state_shardings)


def _placed(abstract: Any, shardings: Any) -> Any:
    """A tree of shapes that say where they lie."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        shardings,
    )


def _recipe(config: TrainingConfig, architecture: Architecture, *, mesh: Mesh) -> _Recipe:
    platform = mesh.devices.flat[0].platform
    precision = resolve_precision(config.step.precision, platform)
    full = not config.lora.enabled
    base = lora_base(config)
    base.check(architecture)
    scan = {"on": True, "off": False, "auto": True}[config.step.scan_blocks]
    attention = _choose_attention(config, architecture, precision, mesh=mesh)
    # A CPU core's cache wants small blocks; an accelerator's matrix units want large ones, and a
    # large chunk that is mostly empty at the end costs them as much as a full one.
    tokens, last, block = (512, 0, 1024) if platform == "cpu" else (2048, 256, 16_384)
    return _Recipe(
        architecture=architecture,
        forward=ForwardOptions(
            precision=precision,
            attention=attention,
            remat=_choose_remat(config, architecture, precision, attention=attention, mesh=mesh),
            scan_blocks=scan,
            lora_scale=0.0 if full else config.lora.alpha / config.lora.rank,
            lora_dropout=0.0 if full else config.lora.dropout,
        ),
        head=HeadOptions(
            precision=precision,
            soft_cap=architecture.final_soft_cap,
            tokens_per_chunk=config.step.loss_tokens_per_chunk or tokens,
            tokens_per_last_chunk=last,
            vocabulary_block=block,
            train_embedding=full,
        ),
        full=full,
        base=base,
        accumulation_steps=config.optimizer.accumulation_steps,
        skip_spikes=config.safety.skip_spikes,
        seed=config.seed,
    )


def _choose_attention(
    config: TrainingConfig, architecture: Architecture, precision: Precision, *, mesh: Mesh
) -> Attention:
    """Fused where one GPU, or splash where a mesh of TPUs can; what `hidden_states` will do.

    On a CPU only where it is asked for: the kernels are interpreted there, for tests.
    """
    asked, length = config.step.attention, config.data.sequence_length
    if mesh.devices.flat[0].platform == "tpu":
        possible = can_splash(architecture, precision, length=length, mesh=mesh.shape)
        return "splash" if possible and asked != "dense" else "dense"
    possible = mesh.size == 1 and can_fuse(architecture, precision, length=length)
    wanted = asked == "fused" or (asked == "auto" and can_launch(mesh.devices.flat[0]))
    return "fused" if possible and wanted else "dense"


def _choose_remat(
    config: TrainingConfig,
    architecture: Architecture,
    precision: Precision,
    *,
    attention: Attention,
    mesh: Mesh,
) -> Remat:
    """What backward computes again, where nobody says.

    On CPUs recomputing norms, gelu and softmax costs less than fetching their pages: a third less
    memory and no slower than nothing. On a GPU keeping the projections saves a quarter of a step,
    if they fit (see `memory`). Other accelerators are short of memory first: the whole block.
    """
    if config.step.remat != "auto":
        return cast(Remat, config.step.remat)
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return "projections"
    # Processes would have to agree on what they found: their devices' limits may differ a little.
    if device.platform != "gpu" or jax.process_count() > 1:
        return "block"
    rows = config.batch_size // config.optimizer.accumulation_steps
    work = Work(
        rows=-(-rows // row_multiple(mesh)),
        length=config.data.sequence_length,
        precision=precision,
        attention=attention,
        adapted=config.lora.targets if config.lora.enabled else None,
        rank=config.lora.rank,
        base=lora_base(config),
        weight_parts=mesh.shape["fsdp"] * mesh.shape["tensor"],
    )
    return "projections" if projections_fit(architecture, work, device=device) else "block"


def _key(seed: int, purpose: Literal["init", "dropout"]) -> jax.Array:
    """The run's key for one purpose; no two purposes share a stream."""
    return jax.random.split(jax.random.key(seed))[("init", "dropout").index(purpose)]


def lora_base(config: TrainingConfig) -> BaseFormat:
    """The formats of the blocks' frozen kernels."""
    if not config.lora.enabled:
        return FLOAT_BASE
    return BaseFormat.make(cast(Base, config.lora.base), config.lora.base_int8)


def _format_weights(weights: dict[str, Any], recipe: _Recipe) -> dict[str, Any]:
    """Frozen weights in the precision's format or quantized, norms and trained ones in float32."""
    wanted = jnp.dtype("float32") if recipe.full else recipe.forward.precision.weights

    def as_wanted(path: tuple, leaf: Any) -> Any:
        name = tree_path(path)
        if isinstance(leaf, Quantized):
            assert leaf.base == recipe.base.of(name), f"{name} is {leaf.base}, not {recipe.base}"
            return leaf
        if not recipe.base.is_float and is_kernel(name):
            return quantize_stack(leaf, base=recipe.base.of(name))
        return leaf.astype(jnp.float32 if "norm" in name else wanted)

    quantize_stack = jax.jit(quantize_kernel, static_argnames="base")
    return jax.tree_util.tree_map_with_path(
        as_wanted, weights, is_leaf=lambda node: isinstance(node, Quantized)
    )


def _new_state(
    weights: dict[str, Any],
    *,
    recipe: _Recipe,
    config: TrainingConfig,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    if recipe.full:
        trainable = weights
    else:
        trainable = init_adapters(
            recipe.architecture,
            targets=config.lora.targets,
            rank=config.lora.rank,
            key=_key(config.seed, "init"),
        )
    step = jnp.zeros((), jnp.int32)
    opt_state = optimizer.init(trainable)
    if recipe.forward.precision.operands == jnp.float16:
        opt_state = start_scaling(opt_state)
    return TrainState(step, trainable, opt_state, guard.nothing_yet())


def _state_shardings(abstract: TrainState, mesh: Mesh) -> TrainState:
    """A TrainState of shardings: variables by rule, their moments like them, the rest copied."""
    trainable = tree_shardings(abstract.trainable, mesh)
    by_path = {
        tree_path(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract.trainable)
    }

    def like_parameter(path: tuple, leaf: Any) -> NamedSharding:
        name = tree_path(path)
        for parameter, shape in by_path.items():
            if name.endswith(parameter) and shape == leaf.shape:
                return NamedSharding(mesh, weight_spec(parameter, shape, mesh))
        return replicated(mesh)

    parts: list[Any] = [
        replicated(mesh),
        trainable,
        jax.tree_util.tree_map_with_path(like_parameter, abstract.opt_state),
        jax.tree.map(lambda _: replicated(mesh), abstract.recent),
    ]
    return TrainState(*parts)


def _sums(
    trainable: dict[str, Any],
    frozen: dict[str, Any],
    batch: PackedBatch,
    key: jax.Array | None,
    *,
    recipe: _Recipe,
) -> LossSums:
    weights, adapters = (trainable, {}) if recipe.full else (frozen, trainable)
    hidden_BLD = hidden_states(
        weights,
        adapters,
        batch.inputs,
        batch.positions,
        batch.segments,
        architecture=recipe.architecture,
        options=recipe.forward,
        key=key,
    )
    return cross_entropy(
        hidden_BLD, weights["embedding"], batch.targets, batch.weights, options=recipe.head
    )


def _train_step(
    state: TrainState,
    frozen: dict[str, Any],
    batch: PackedBatch,
    words_NC: jax.Array,
    *,
    recipe: _Recipe,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> tuple[TrainState, StepMetrics]:
    step_key = jax.random.fold_in(_key(recipe.seed, "dropout"), state.step)
    opt_before, scale = split_scale(state.opt_state)

    def loss_sum(trainable: dict, part: PackedBatch, key: jax.Array) -> tuple[jax.Array, LossSums]:
        sums = _sums(trainable, frozen, part, key, recipe=recipe)
        return sums.loss * scale, sums

    gradient = jax.grad(loss_sum, has_aux=True)
    if recipe.accumulation_steps == 1:
        grads, sums = gradient(state.trainable, batch, step_key)
    else:
        grads, sums = _accumulate(gradient, state.trainable, batch, step_key, recipe=recipe)
    count = jnp.maximum(sums.weight, 1.0)  # a step of padding only changes nothing
    grads = jax.tree.map(lambda g: g / (count * scale), grads)
    loss, grad_norm = sums.loss / count, optax.tree.norm(grads)
    verdict = guard.judge(state.recent, loss, grad_norm, deviations=recipe.skip_spikes)
    accepted = verdict == 0
    control = agree(words_NC)
    learning_rate = jnp.asarray(schedule(state.step), jnp.float32) * control.learning_rate_scale
    updates, opt_state = optimizer.update(grads, opt_before, state.trainable)
    updates = jax.tree.map(lambda update: learning_rate * update, updates)
    trainable = optax.apply_updates(state.trainable, updates)
    trainable, opt_state = jax.tree.map(
        lambda new, old: jnp.where(accepted, new, old),
        (trainable, opt_state),
        (state.trainable, opt_before),
    )
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    opt_state = adjust_scale(state.opt_state, opt_state, is_finite=is_finite)
    # A step of padding says nothing about what is usual.
    recent = guard.remember(state.recent, loss, grad_norm, accepted & (sums.weight > 0))
    metrics = StepMetrics(
        loss=loss,
        loss_tokens=sums.weight,
        tokens=jnp.sum(batch.segments > 0).astype(jnp.float32),
        grad_norm=grad_norm,
        loss_scale=scale,
        learning_rate=learning_rate,
        verdict=verdict,
        control=control,
    )
    return TrainState(state.step + 1, trainable, opt_state, recent), metrics


def _accumulate(
    gradient: Callable,
    trainable: dict[str, Any],
    batch: PackedBatch,
    key: jax.Array,
    *,
    recipe: _Recipe,
) -> tuple[dict[str, Any], LossSums]:
    """Sums gradients and losses over micro-batches; the caller divides once by all tokens."""
    n = recipe.accumulation_steps

    def split(rows: jax.Array) -> jax.Array:
        # Micro-batch i takes every n-th row, so each device keeps the rows it already holds.
        parts = rows.reshape(rows.shape[0] // n, n, *rows.shape[1:]).swapaxes(0, 1)
        if jax.sharding.get_abstract_mesh().empty:
            return parts
        return jax.lax.with_sharding_constraint(parts, P(None, BATCH_AXES))

    def add(carry: Any, part: tuple[PackedBatch, jax.Array]) -> tuple[Any, None]:
        found = gradient(trainable, *part)
        return jax.tree.map(jnp.add, carry, found), None

    parts = PackedBatch(*map(split, batch))
    keys = jax.random.split(key, n)
    zero = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, trainable, jax.tree.map(lambda x: x[0], parts), keys[0]),
    )
    total, _ = jax.lax.scan(add, zero, (parts, keys))
    return total


def _eval_step(
    state: TrainState, frozen: dict[str, Any], batch: PackedBatch, *, recipe: _Recipe
) -> LossSums:
    return _sums(state.trainable, frozen, batch, None, recipe=recipe)


def _put_batch(batch: PackedBatch, *, mesh: Mesh, multiple: int) -> PackedBatch:
    """This host's rows as part of global arrays, filled up with empty rows to a multiple.

    A batch smaller than the mesh then works, if wastefully: an empty row counts for nothing.
    """
    sharding = batch_sharding(mesh)
    part = host_rows(mesh, multiple)

    def place(rows: Any) -> jax.Array:
        filled = np.pad(np.asarray(rows), ((0, -len(rows) % len(part)), (0, 0)))
        shape = (multiple * len(filled) // len(part), *filled.shape[1:])
        return jax.make_array_from_process_local_data(sharding, filled, shape)

    with jax.transfer_guard("allow"):  # this is the place where it is meant
        return PackedBatch(*map(place, batch))


def _flops(recipe: _Recipe) -> tuple[float, float]:
    """Matrix FLOPs a token (blocks) and a supervised token (head), forward and backward.

    Two FLOPs a weight forward and two for the inputs' gradient; two more for the weights' own in
    full fine-tuning. Adapters, attention's products (a few percent at short rows) and whatever
    is recomputed are not counted: this is the model's work, which MFU is measured by.
    """
    per_weight = 6.0 if recipe.full else 4.0
    blocks = recipe.architecture.weight_shapes()["blocks"].values()
    matrices = sum(int(np.prod(shape)) for shape in blocks if len(shape) > 2)
    head = recipe.architecture.vocabulary * recipe.architecture.width
    return per_weight * matrices, per_weight * head


def _describe(recipe: _Recipe, abstract: TrainState, mesh: Mesh) -> dict[str, Any]:
    def count(tree: Any) -> int:
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

    shapes = recipe.architecture.weight_shapes()
    flops_per_token, flops_per_loss_token = _flops(recipe)
    leaves = jax.tree.leaves(shapes, is_leaf=lambda node: isinstance(node, tuple))
    total = sum(int(np.prod(shape)) for shape in leaves)
    return {
        "precision": recipe.forward.precision.name,
        "base": recipe.base.base,
        "base_int8": list(recipe.base.int8),
        "attention": recipe.forward.attention,
        "remat": recipe.forward.remat,
        "scan_blocks": recipe.forward.scan_blocks,
        "loss_tokens_per_chunk": recipe.head.tokens_per_chunk,
        "vocabulary_block": recipe.head.vocabulary_block,
        "mesh": dict(mesh.shape),
        "parameters": total,
        "trainable_parameters": count(abstract.trainable),
        "flops_per_token": flops_per_token,
        "flops_per_loss_token": flops_per_loss_token,
    }
