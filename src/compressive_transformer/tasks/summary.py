"""What is printed when training ends."""

from __future__ import annotations

from compressive_transformer.evaluate import measure_of
from compressive_transformer.tasks.text import Result


def describe_result(result: Result, picture: str) -> str:
    """Bits per byte beside general compressors, a sample, where everything is, and what to do next."""
    sound = result.evaluation.unit == "sample"
    sample = [
        "A sample, after the last words of its prompt:",
        *(f"  {line}" for line in result.sample.splitlines()),
    ]
    prompt = "--seconds 2 --out made.wav" if sound else "--prompt 'It was' --length 500"
    lines = [
        "",
        *_score(result),
        "",
        *([f"A sample:   {result.sample}"] if sound else [*sample, ""]),
        f"Run folder: {result.run}",
        f"Picture:    {picture}",
        f"Go on with: compressive generate {result.run} {prompt}",
        f"            compressive evaluate {result.run} FILE",
    ]
    return "\n".join(lines)


def _score(result: Result) -> list[str]:
    total, unit = result.evaluation.total, result.evaluation.unit
    if unit == "word":  # a closed vocabulary may lose words, a compressor nothing
        words = f"{total.num_words:,} words never trained on"
        return [f"Perplexity per word of the validation text ({words}): {total.word_perplexity:,.2f}"]
    measure = measure_of(unit)
    rows = [("this model", total.by(measure)), *result.compressors.items()]
    size = f"{total.num_tokens:,} samples" if unit == "sample" else f"{total.num_bytes:,} bytes"
    remarks = {"sample": "(FLAC sees these recordings only; the linear predictor has read the training part)"}
    usual = "(the compressors see these bytes only; the model has read the training text)"
    return [
        f"{measure.capitalize()} of the validation {'sound' if unit == 'sample' else 'text'} "
        f"({size} never trained on):",
        *(f"  {name:<12}{bits:6.3f}" for name, bits in sorted(rows, key=lambda row: row[1])),
        f"  {remarks.get(unit, usual)}",
    ]
