"""What can be wrong with a loss: the name of each problem, how bad it is, why it matters and what to write instead.

An error breaks training or makes its numbers wrong; a warning breaks it at inputs that may come; a note is worth knowing.
"""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One thing that can be wrong with a loss.

    Attributes:
        name: what findings are called, e.g. `gradient-wrong`.
        severity: how bad it is unless the check says otherwise.
        why: why it matters.
        write: what to write instead.
    """

    name: str
    severity: Severity
    why: str
    write: str


def _table(*problems: Problem) -> dict[str, Problem]:
    return {problem.name: problem for problem in problems}


PROBLEMS = _table(
    # -- what comes back ---------------------------------------------------------------------------------------------------------------
    Problem(
        "raises",
        "error",
        "the loss cannot be computed at all on the input and target given.",
        "mend the call, or give the input and target that the loss is meant for.",
    ),
    Problem(
        "not-a-tensor",
        "error",
        "only a tensor carries the graph that backward() walks.",
        "return the tensor itself; call float() or .item() on it where it is logged.",
    ),
    Problem(
        "shape",
        "error",
        "backward() needs one number, or one number an example; a mean over the wrong axis gives neither.",
        "end with .mean(); or reduce every axis but the first, for one value an example.",
    ),
    Problem(
        "dtype",
        "warning",
        "the result leaves the input's precision: it costs memory or loses digits, and finite differences cannot prove it.",
        "make constants with input.new_tensor(...) or dtype=input.dtype, and cast to nothing else than input.dtype.",
    ),
    Problem(
        "not-finite",
        "error",
        "NaN or infinity at ordinary input reaches every weight at the first step.",
        "look for log(0), 0/0, sqrt of a negative number or an overflow, and write the stable form.",
    ),
    # -- what the call leaves behind ---------------------------------------------------------------------------------------------------
    Problem(
        "in-place-input",
        "error",
        "the model's output changes under whoever reads it next (metrics, a second loss), and autograd may refuse or go wrong.",
        "write x = x - y and torch.where in place of x -= y, x[...] = and methods that end in _.",
    ),
    Problem(
        "in-place-target",
        "error",
        "the labels in your data change, so the second epoch trains on others.",
        "work on target.clone(), or write the new value to a new name.",
    ),
    Problem(
        "random",
        "error",
        "two calls on the same input differ, so losses cannot be compared and a gradient is a noisy guess.",
        "take the randomness out (dropout belongs to the model); if it draws on purpose, pass random=True: every call then begins alike.",
    ),
    Problem(
        "stateful",
        "warning",
        "two equal calls differ by what was called before: evaluation changes training, and a resumed run differs.",
        "keep such state out of the loss, or in buffers that change only in training mode.",
    ),
    Problem(
        "global-state",
        "error",
        "a loss that leaves global settings changed breaks code that never called it: evaluation records graphs, all draws repeat.",
        "use `with torch.no_grad():` as a context, and a torch.Generator of your own in place of torch.manual_seed.",
    ),
    # -- gradients ---------------------------------------------------------------------------------------------------------------------
    Problem(
        "detached",
        "error",
        "the value moves with the input but no gradient comes back: the model will not learn from it, and nothing says so.",
        "remove .detach(), .data, .item(), torch.no_grad() and torch.tensor(...) from the way between input and result.",
    ),
    Problem(
        "numpy-in-graph",
        "error",
        "numpy knows no graph: the gradient ends there.",
        "write the same with torch functions.",
    ),
    Problem(
        "step",
        "error",
        "the value only jumps (argmax, round, a comparison): its derivative is zero wherever it exists, so nothing is learnt.",
        "train on a smooth stand-in (cross-entropy for accuracy, sigmoid for a threshold) and keep this one as a metric.",
    ),
    Problem(
        "jump",
        "error",
        "the value jumps though its gradient knows nothing of it: the pieces of the loss do not meet, or a threshold cuts examples off.",
        "make the pieces equal where they meet, as Huber's d*(|e| - d/2); if a threshold is meant, skip=('jumps',).",
    ),
    Problem(
        "gradient-wrong",
        "error",
        "autograd's derivative is not that of the value: training minimises something else.",
        "check the backward of your autograd.Function, and what is detached on purpose; for a straight-through trick, skip=('gradient',).",
    ),
    Problem(
        "gradient-nan",
        "error",
        "the value is finite but its gradient is NaN: one such example destroys every weight.",
        "guard before the sqrt, log or division: torch.where(ok, x, 1).sqrt(); a where behind it still gives NaN.",
    ),
    Problem(
        "second-derivative-wrong",
        "error",
        "Newton's method, gradient penalties and Hessian-vector products silently get another number.",
        "build the autograd.Function's backward from torch operations on saved tensors; once_differentiable still gives a silent 0.",
    ),
    Problem(
        "second-derivative-missing",
        "note",
        "second-order methods and gradient penalties cannot use this loss; it says so loudly, so nothing is silently wrong.",
        "build the backward from differentiable torch operations, if you need it.",
    ),
    Problem(
        "saturated",
        "error",
        "where the prediction is confidently wrong the gradient is exactly zero: such examples are never corrected.",
        "take logits, and use logsigmoid, log_softmax or softplus in place of a clamp before the log.",
    ),
    Problem(
        "saturates",
        "warning",
        "the more confidently wrong a prediction, the less it is corrected: learning stalls, unless outliers are forgiven on purpose.",
        "take log_softmax, logsigmoid or softplus in place of a log, square or nll_loss of a softmax; bounded losses are so by design.",
    ),
    Problem(
        "one-sided",
        "warning",
        "predictions on one side of their targets are never corrected.",
        "take abs() or square() of the difference in place of relu or clamp, unless only one side is to cost.",
    ),
    Problem(
        "unbounded",
        "error",
        "the loss falls for ever as predictions grow: training lowers it without learning.",
        "give nll_loss log_softmax(input, 1) rather than scores; check the sign of each term.",
    ),
    Problem(
        "log-missing",
        "error",
        "the cost is minus the probability, as nll_loss of a softmax gives: the log is missing, and wrong answers are hardly corrected.",
        "write cross_entropy(scores, target), or nll_loss(log_softmax(scores, 1), target).",
    ),
    # -- what the value depends on -----------------------------------------------------------------------------------------------------
    Problem("ignores-input", "error", "the value does not depend on the prediction.", "use the first argument."),
    Problem("ignores-target", "error", "the value does not depend on the target: nothing can be learnt from labels.", "use the target."),
    Problem(
        "ignores-part",
        "error",
        "some examples or outputs never influence the value, so they are never trained.",
        "look for an index such as [0] or [:, 0] where all were meant.",
    ),
    Problem(
        "broadcast",
        "error",
        "shapes (N,) and (N, 1) broadcast to N x N: every prediction is compared with every target, and the best answer is their mean.",
        "make the shapes equal before subtracting: input.squeeze(-1), or target.reshape(input.shape).",
    ),
    Problem(
        "pairing-lost",
        "error",
        "shuffling the targets against the predictions changes nothing: averages are compared, not examples.",
        "compare example with example first, and average last.",
    ),
    Problem(
        "wrong-axis",
        "error",
        "examples are normalised against each other in place of classes (or features) within an example.",
        "the classes are on axis 1: softmax(input, dim=1), normalize(input, dim=1).",
    ),
    Problem(
        "wrong-class",
        "error",
        "a label is compared with the score of another class, so every class learns to be called by a wrong name.",
        "look for target - 1, target + 1 or a clamp of the labels: classes are counted from 0, and label k is column k.",
    ),
    Problem(
        "wrong-sign",
        "error",
        "a step down this loss moves predictions away from their targets.",
        "turn the sign: a log-likelihood, a similarity or a score to be raised needs a minus.",
    ),
    Problem(
        "not-least",
        "error",
        "the loss is lower elsewhere than at the prediction called perfect.",
        "look at the sign, at the order of the arguments, and at what scale the loss expects (logits or probabilities).",
    ),
    Problem("value-wrong", "error", "the value is not that of the reference formula.", "compare term by term at the example named."),
    # -- the batch ---------------------------------------------------------------------------------------------------------------------
    Problem(
        "order",
        "error",
        "the order of the examples changes the value, though a batch has no order.",
        "look for cumsum, neighbours ([1:] - [:-1]), or a weight by position.",
    ),
    Problem(
        "batch-size",
        "error",
        "the step changes with the number of examples: the last, smaller batch and every other batch size train differently.",
        "divide by the number of examples (.mean()); say reduction='sum' if a sum is meant.",
    ),
    Problem(
        "between-examples",
        "note",
        "the loss of a batch is not the mean over its examples: micro-batches do not add up to it. Contrastive and set losses are so.",
        "nothing, if meant: separate=False says so.",
    ),
    Problem(
        "empty-batch",
        "note",
        "a batch from which every example was masked or filtered gives NaN or stops the run.",
        "divide by max(count, 1): the sum over nothing is 0.",
    ),
    Problem(
        "all-ignored",
        "warning",
        "a batch that holds only the ignored label gives NaN.",
        "divide by the number of labels that count, at least 1.",
    ),
    # -- edges -------------------------------------------------------------------------------------------------------------------------
    Problem(
        "nan-at-edge",
        "error",
        "NaN or infinity at input that does come: a perfect prediction, a zero vector, a probability of exactly 0 or 1.",
        "guard the argument of log and of divisions: xlogy for 0 log 0, a clamp at the smallest normal number, vector_norm for lengths.",
    ),
    Problem(
        "large-input",
        "warning",
        "exp or a power overflows where the loss itself is finite.",
        "use log_softmax, logsigmoid, logsumexp or softplus, which subtract the maximum first.",
    ),
    Problem(
        "nan-hidden",
        "warning",
        "a model that has produced NaN goes on with a loss that looks healthy.",
        "let NaN through: no nan_to_num, and no comparison that drops it (NaN > 0 is False).",
    ),
    # -- precision, transforms -----------------------------------------------------------------------------------------------------------
    Problem(
        "half-precision",
        "warning",
        "under autocast or half training the value overflows, though the true one is an ordinary number.",
        "compute in 32 bits: input = input.float() first.",
    ),
    Problem(
        "precision",
        "warning",
        "digits are lost that the input's dtype has.",
        "subtract before squaring or exponentiating, and cast to nothing narrower than the input.",
    ),
    Problem(
        "label-cast",
        "error",
        "labels pass through a narrower type: classes above 2048 (float16) or 256 (bfloat16) become others, and numbers lose digits.",
        "leave the target's dtype alone: target.long() for classes, target.to(input.dtype) for numbers.",
    ),
    Problem(
        "silent-broadcast",
        "note",
        "a target of shape (N, 1) against an input (N,), or the reverse, is accepted and compared N x N.",
        "refuse it: if input.shape != target.shape: raise ValueError(...).",
    ),
    Problem(
        "no-transforms",
        "note",
        "torch.func (vmap, per-example gradients) cannot trace it: mostly .item(), a Python if on values, or shapes that depend on values.",
        "use torch.where and masks in place of Python's if and of boolean indexing.",
    ),
    Problem(
        "no-compile",
        "note",
        "torch.compile splits the graph at this loss, which costs speed.",
        "use torch.where in place of Python's if on values, and no .item() or numpy.",
    ),
    Problem(
        "device",
        "warning",
        "a tensor made inside stays on the CPU, so the loss fails on a GPU.",
        "make it with device=input.device, or input.new_tensor(...); in a Module, register_buffer.",
    ),
)
