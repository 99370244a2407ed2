"""What is printed when training ends."""

from __future__ import annotations

from compressive_transformer.tasks.text import Result


def describe_result(result: Result, picture: str) -> str:
    """Bits per byte beside general compressors, a sample, where everything is, and what to do next."""
    total = result.evaluation.total
    rows = [("this model", total.bits_per_byte), *result.compressors.items()]
    lines = [
        "",
        f"Bits per byte of the validation text ({total.num_bytes:,} bytes never trained on):",
        *(f"  {name:<12}{bits:6.3f}" for name, bits in sorted(rows, key=lambda row: row[1])),
        "  (the compressors see these bytes only; the model has read the training text)",
        "",
        "A sample, after the last words of its prompt:",
        *(f"  {line}" for line in result.sample.splitlines()),
        "",
        f"Run folder: {result.run}",
        f"Picture:    {picture}",
        f"Go on with: compressive generate {result.run} --prompt 'It was' --length 500",
        f"            compressive evaluate {result.run} FILE",
    ]
    return "\n".join(lines)
