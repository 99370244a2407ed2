"""The paper's Table 5 in small: compression functions and what teaches them, on books as bytes.

    python experiments/compressors.py --train pg19/train --valid pg19/heldout       # trains, writes a record
    python experiments/compressors.py --table                                       # prints its table

Every arm is the recipe ``tiny`` at width 128, with 16 lanes and equal tokens, but for what its name says. A
convolution adds c d^2 weights to each layer, a dilated one more. Attention costs all the same, but for
Transformer-XL with fewer slots, there for comparison. Without a loss of its own (BPTT) a convolution learns
through two segments a step, of half the lanes, as in the paper.
"""

from lab import LANES, Runs, arm, by_arm, main, markdown, mean, spread

PAPER = {
    "convolution, BPTT": 0.996,
    "max pooling": 0.986,
    "convolution, auto-encoding": 0.984,
    "mean pooling": 0.982,
    "most-used": 0.980,
    "dilated convolution, attention": 0.977,
    "convolution, attention": 0.973,
}
"""Bits per byte on enwik8, the best of three rates."""
HALF = LANES // 2
ARMS = {
    "convolution, BPTT": arm(unroll=2, lanes=HALF, model={"compression_loss": "none"}),
    "max pooling": arm(model={"compressor": "max"}),
    "convolution, auto-encoding": arm(model={"compression_loss": "auto-encoding"}),
    "mean pooling": arm(model={"compressor": "mean"}),
    "most-used": arm(model={"compressor": "most-used"}, compile="off"),
    "dilated convolution, attention": arm(model={"compressor": "dilated"}),
    "convolution, attention": arm(),
    "convolution, attention, two segments": arm(unroll=2, lanes=HALF),
    "Transformer-XL, 192 slots": arm(model={"memory": 192, "compressed_memory": 0}),
    "Transformer-XL, 128 slots": arm(model={"memory": 128, "compressed_memory": 0}),
}


def table(runs: Runs) -> str:
    """In the paper's order, beside its numbers."""
    bits, parameters = by_arm(runs), by_arm(runs, "parameters")
    rows = []
    for name in (name for name in ARMS if name in bits):
        found = bits[name]
        size = f"{parameters[name][0] / 1e6:.2f} M"
        paper = f"{PAPER[name]:.3f}" if name in PAPER else ""
        rows.append([name, f"{mean(found):.3f}", spread(found), str(len(found)), size, paper])
    return markdown(["", "bits per byte", "range", "seeds", "parameters", "paper, enwik8"], rows)


if __name__ == "__main__":
    main(__file__, __doc__, ARMS, table, tokens=1_000_000, seeds=(0, 1, 2))
