"""`--dry_run`: what a study would search, in words; nothing is trained or written."""

import optuna

from data.batches import FamilyData
from search.command_line import Options
from search.plan import StudyPlan
from search.sampling import GRID_POINTS, grid_size, sampler, suggest


def describe(plan: StudyPlan, data: FamilyData, options: Options) -> str:
    """The space, its size, what is dropped and why, the data, the default and one sampled configuration."""
    width = max(map(len, plan.space))
    lines = [f"study {plan.name}: {plan.model} on {plan.family}, {plan.search_type} search, {plan.n_slots} trials"]
    lines.append("search space:")
    lines += [f"  {name:<{width}}  {entry}" for name, entry in plan.space.items()]
    size = grid_size(plan.space)
    points = f"with {GRID_POINTS} points for each range"
    lines.append(f"size: {size:,} cells {points}" + (f", {plan.n_slots} of them taken" if plan.cells else ""))
    lines.append("dropped for this family:" + ("" if plan.dropped else " nothing"))
    lines += [f"  {line}" for line in plan.dropped]
    found = "" if data.splits else " none yet, the search makes it"
    lines.append(f"data in {options.data_root / plan.family}:{found}")
    for name, split in data.splits.items():
        lines.append(f"  {name:<{width}}  {len(split.tau)} trajectories, sha256 {data.sha256[name][:12]}")
    lines.append("default configuration:")
    lines += [f"  {name:<{width}}  {value}" for name, value in plan.defaults.items()]
    if plan.cells is None:
        lines += [f"  slot 0: {line}" for line in plan.changes]
    slot = min(1, plan.n_slots - 1) if plan.cells else 1
    lines.append(f"configuration of slot {slot}:")
    lines += [f"  {name:<{width}}  {shown}" for name, shown in sampled(plan, slot).items()]
    return "\n".join(lines)


def sampled(plan: StudyPlan, slot: int) -> dict[str, object]:
    """The configuration that a slot of a new study gets (a later Bayesian one depends on those before)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler(plan.search_type, plan.seed, slot, plan.sampler))
    study.enqueue_trial(plan.parameters(slot))
    return suggest(study.ask(), plan.space)
