"""What is printed when training ends."""

from __future__ import annotations

from compressive_transformer.tasks.text import Result


def describe_result(result: Result, picture: str) -> str:
    """Bits per byte beside general compressors, a sample, where everything is, and what to do next."""
    lines = [
        "",
        *_score(result),
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


def _score(result: Result) -> list[str]:
    total = result.evaluation.total
    if result.evaluation.unit == "word":  # a closed vocabulary may lose words, a compressor nothing
        words = f"{total.num_words:,} words never trained on"
        return [f"Perplexity per word of the validation text ({words}): {total.word_perplexity:,.2f}"]
    rows = [("this model", total.bits_per_byte), *result.compressors.items()]
    return [
        f"Bits per byte of the validation text ({total.num_bytes:,} bytes never trained on):",
        *(f"  {name:<12}{bits:6.3f}" for name, bits in sorted(rows, key=lambda row: row[1])),
        "  (the compressors see these bytes only; the model has read the training text)",
    ]
