"""What stands beside the losses and has a name of its own: several tasks at once, their weighting, mining."""

from typing import NamedTuple


class Beside(NamedTuple):
    """Its family, the module that tells of it, what makes it, and how that is written."""

    family: str
    module: str
    make: str
    python: str


_INTO = """t = fl.mining.{}(embeddings, labels)
a, p, n = (embeddings[rows[t.valid]] for rows in (t.anchor, t.positive, t.negative))
loss = fl.losses.Triplet(margin=0.2)(a, p, n)"""
_MEMORY = """memory = fl.mining.CrossBatchMemory(size=1024, dim=64)
loss = fl.losses.Triplet()(embeddings, labels, reference=memory.reference)
loss.backward()
memory.add(embeddings, labels)  # after the loss, once a step"""
_MULTI = 'fl.losses.MultiTask({"class": "cross_entropy", "size": "mse"}'
BESIDE = {
    "multi_task": Beside("loss", "fallline.losses.combined.multi_task", "MultiTask", f"{_MULTI})(outputs, targets)"),
    "uncertainty": Beside("weighting", "fallline.losses.combined.uncertainty", "", f'{_MULTI}, weighting="uncertainty")'),
    "gradnorm": Beside("weighting", "fallline.losses.combined.gradnorm", "", f'{_MULTI}, weighting="gradnorm")'),
    "batch_hard": Beside("mining", "fallline.mining.batch_hard", "batch_hard", _INTO.format("batch_hard")),
    "semi_hard": Beside("mining", "fallline.mining.semi_hard", "semi_hard", _INTO.format("semi_hard")),
    "distance_weighted": Beside("mining", "fallline.mining.distance_weighted", "distance_weighted", _INTO.format("distance_weighted")),
    "count_triplets": Beside("mining", "fallline.mining.count_triplets", "count_triplets", "fl.mining.count_triplets(labels)"),
    "cross_batch_memory": Beside("mining", "fallline.mining.memory", "CrossBatchMemory", _MEMORY),
}
