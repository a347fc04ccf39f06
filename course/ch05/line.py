"""Chapter 5: your `fit_line` on the runs that you have made, and its prediction for the next run.

    python -m course.ch05.line --runs=ch2-d2,ch5-d3,ch5-d4 --layers=5 --width=160 --steps=100

Runs are base models by their --model_tag; --layers, --width and --steps describe the run to predict.
"""
import math

from course.ch05 import exercise
from nanochat.system import cli, files, results
from nanochat.system.cli import flag
from nanochat.system.files import UserError

VOCAB_SIZE, ROW_LEN, BATCH_TOKENS = 2048, 256, 2048  # of all runs of this chapter


def measured(tag: str) -> tuple[float, float]:
    """(FLOPs, bits per byte at the end) of a base model. UserError where it is not trained to its end."""
    folder = results.folder_of("base", tag)
    values = [line["val/bpb"] for line in files.read_jsonl(folder / "metrics.jsonl") if "val/bpb" in line]
    flops = files.read_json(folder / "run.json").get("flops")
    if not values or not flops:
        raise UserError(f"the base model {tag} is not trained to its end; train it with scripts.base_train "
                        f"--model_tag={tag} (docs/course/05-scaling.md)")
    return float(flops), float(values[-1])


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, runs=flag("ch2-d2,ch5-d3,ch5-d4", "base models that are trained, joined by commas"),
                     layers=flag(5, "of the model to predict", at_least=1),
                     width=flag(160, "of the model to predict", at_least=1),
                     steps=flag(100, "of its training", at_least=1))
    points = {tag: measured(tag) for tag in args.runs.split(",")}
    logs = [[math.log10(value) for value in column] for column in zip(*points.values(), strict=True)]
    slope, intercept = exercise.fit_line(*logs)

    def on_the_line(flops: float) -> float:
        return 10 ** (slope * math.log10(flops) + intercept)

    print(f"log10(bits per byte) = {slope:.3f} * log10(FLOPs) + {intercept:.3f}")
    for tag, (flops, bits) in points.items():
        print(f"{tag}: {flops:.2e} FLOPs, {bits:.4f} bits per byte, {on_the_line(flops):.4f} on the line")
    per_token = exercise.flops_per_token(args.layers, args.width, VOCAB_SIZE, ROW_LEN)
    flops = float(per_token * BATCH_TOKENS * args.steps)
    print(f"prediction for {args.layers} layers, {args.width} wide, {args.steps} steps: {flops:.2e} FLOPs, "
          f"{on_the_line(flops):.4f} bits per byte")


if __name__ == "__main__":
    cli.run(main)
