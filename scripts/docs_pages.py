"""What the pages of docs/ say and which commands they run; `scripts/make_docs.py` writes them.

Option tables, outputs and images are not here: they come from the code itself.
"""

from __future__ import annotations

from scripts.docs_parts import BASELINE, MODEL, REPORT, SMOLLM2, TEXT, Page, Picture, Step

GROUPS = {
    "Measure": ("rank", "scan", "sinks", "collapse", "superposition", "features", "relations"),
    "Guard": ("check",),
    "Look before": ("series", "layout", "plan", "corpus"),
    "Look after": ("report", "export", "explain"),
}

PAGES = (
    Page(
        "rank",
        "The spectrum of the representations at every checkpoint and layer: how many dimensions "
        "are in use (RankMe and its kin), how fast the eigenvalues fall (alpha-ReQ), and into "
        "which phases that divides the training. It is the verb to begin with, and `demo`, a "
        "small series of checkpoints that comes with geoprobe, the model to begin with.",
        (
            Step(
                "geoprobe rank demo",
                pictures=(
                    Picture(
                        "geoprobe-runs/demo",
                        "training-rankme",
                        "rank-training",
                        "RankMe of the last layer over the training of the demo series, with its "
                        "phases",
                    ),
                    Picture(
                        "geoprobe-runs/demo",
                        "heatmap",
                        "rank-heatmap",
                        "RankMe of every layer over the training of the demo series",
                    ),
                    Picture(
                        "geoprobe-runs/demo",
                        REPORT,
                        "report-demo",
                        "The report of the demo series",
                    ),
                ),
            ),
            Step(
                f"geoprobe rank {SMOLLM2} --sequences 128",
                before="A single checkpoint, here a quantised language model in a GGUF file, has "
                "depth alone. In blocks 2 to 8 a few outlying tokens carry most of the variance, "
                "and the standard errors say so; [sinks](sinks.md) shows what such tokens are.",
                cheap=False,
                pictures=(
                    Picture(
                        f"geoprobe-runs/{SMOLLM2}",
                        "layers-rankme",
                        "rank-smollm2-layers",
                        "RankMe by layer of SmolLM2-135M",
                    ),
                ),
            ),
        ),
        ("--tokens", "--drop-sinks", "--convention", "--ablate", "--skip", "--features", "--text",
         "--images", "--sequences", "--log-spaced", "--layers", "--sites", "--out"),
        """import geoprobe

run = geoprobe.measure("demo")
run.readings.filter(measure="rankme", site="final")  # a polars frame
run.findings  # the phases, and warnings
run.report("report.html")

eigenvalues = geoprobe.spectrum(features)  # your own activations (n, d)
geoprobe.measures.rankme(eigenvalues)""",
        ("scan", "sinks", "check", "explain"),
    ),
    Page(
        "scan",
        "Everything that one forward pass can tell: spectra, sinks and their levels, neural "
        "collapse on next tokens and superposition, in one run and one report. What a model does "
        "not have, a head or MLPs, is left out with a word. What attention pays to the sinks takes "
        "further passes: `--attention`.",
        (
            Step(
                "geoprobe scan demo --last 1 --sequences 128",
                keep=(38, 24),
                pictures=(
                    Picture(
                        "geoprobe-runs/demo-scan",
                        "profile",
                        "scan-profile",
                        "Measures of the spectrum by layer, newest checkpoint of the demo series",
                    ),
                ),
            ),
            Step(
                f"geoprobe scan {SMOLLM2} --sequences 128 --out geoprobe-runs/smollm2-scan",
                before="A language model, on the built-in text. In the middle layers its primary "
                "sink, the first token, is larger than all others by far, which the spectrum, "
                "collapse and kurtosis show, too.",
                keep=(16, 0),
                cheap=False,
                pictures=(
                    Picture(
                        "geoprobe-runs/smollm2-scan",
                        REPORT,
                        "report-smollm2",
                        "The report of SmolLM2-135M",
                    ),
                ),
            ),
        ),
        ("--probes", "--attention", "--tokens", "--drop-sinks", "--sequences", "--length",
         "--every", "--last", "--sites", "--out", "--json"),
        """import geoprobe

run = geoprobe.measure(
    "demo",
    probes=["spectrum", "sinks", "collapse", "superposition"],
    where_possible=True,
    levels_only=True,  # of sinks what one pass tells
    select={"last": 1},
    sequences=128,
)""",
        ("rank", "sinks", "collapse", "superposition", "check"),
    ),
    Page(
        "check",
        "Whether a model's geometry moved: against a baseline that lies in git, or against "
        "another model. It compares on the same texts, in pairs, allows what numerics alone may "
        "do, and ends with an exit code that a CI job understands.",
        (
            Step(
                f"geoprobe check {MODEL} --text {TEXT} --baseline {BASELINE} --update "
                "--probes spectrum --sequences 128",
                before="The baseline is made once, and again whenever a change is meant; "
                f"`{MODEL}` and `{TEXT}` are copies of the demo series and of its text. The newest "
                "checkpoint of a series is the one that is checked.",
                keep=(24, 6),
                cheap=False,
            ),
            Step(
                f"geoprobe check {MODEL} --text {TEXT} --baseline {BASELINE}",
                before="The same model passes. The baseline knows how it was measured, so there is "
                "nothing to repeat but the text:",
                keep=(24, 6),
                cheap=False,
            ),
            Step(
                f"geoprobe check {MODEL}/step-01536 --text {TEXT} --baseline {BASELINE}",
                before="An older checkpoint of the same training is not the same model:",
                keep=(24, 6),
                code=1,
                cheap=False,
            ),
        ),
        ("--baseline", "--update", "--against", "--unpaired", "--config", "--probes", "--junit",
         "--markdown", "--all", "--json"),
        """import geoprobe

found = geoprobe.check("my-model", baseline="geometry.json")
found.exit_code  # 0 passed, 1 moved, 3 not comparable
found.verdict""",
        ("scan", "rank", "explain"),
    ),
    Page(
        "sinks",
        "Where attention rests: the primary sink and the depths at which it stands out, secondary "
        "sinks that share its direction, massive activations, and the share of attention that all "
        "of them get, by layer and head. Over a series it says when sinks emerge.",
        (
            Step(
                "geoprobe sinks demo",
                pictures=(
                    Picture(
                        "geoprobe-runs/demo-sinks",
                        "sink-scores",
                        "sinks-scores",
                        "Sink score of every layer and head of the demo's newest checkpoint",
                    ),
                ),
            ),
            Step(
                f"geoprobe sinks {SMOLLM2} --sequences 24",
                before="A model trained on trillions of tokens has far stronger ones. From block "
                "11 on the norm of its first position is two orders of magnitude above the "
                "others', and most heads rest there:",
                cheap=False,
                pictures=(
                    Picture(
                        f"geoprobe-runs/{SMOLLM2}-sinks",
                        "sink-norms",
                        "sinks-smollm2-norms",
                        "Norm of the primary sink over the depth of SmolLM2-135M, beside the "
                        "median of the other tokens",
                    ),
                    Picture(
                        f"geoprobe-runs/{SMOLLM2}-sinks",
                        "sink-scores",
                        "sinks-smollm2-scores",
                        "Sink score of every layer and head of SmolLM2-135M",
                    ),
                ),
            ),
        ),
        ("--probe-text", "--eps", "--levels-only", "--causal", "--sequences", "--length", "--text",
         "--out"),
        """import geoprobe

run = geoprobe.measure("demo", probes=["sinks"], sequences=100, length=64)
run.readings.filter(measure="sink_rate", site="model")""",
        ("rank", "scan", "superposition"),
    ),
    Page(
        "collapse",
        "How far the features of a class have collapsed onto its mean and the means onto a simplex "
        "(NC1 to NC4), at every layer: of a classifier, of labelled text in a language model, or, "
        "without labels, of next tokens. Beside each value stands the same on permuted labels.",
        (
            Step(
                "geoprobe collapse demo --sequences 256",
                pictures=(
                    Picture(
                        "geoprobe-runs/demo-collapse",
                        "collapse-nc2",
                        "collapse-training",
                        "NC2 to NC4 over the training of the demo series, beside permuted labels",
                    ),
                    Picture(
                        "geoprobe-runs/demo-collapse",
                        "collapse-depth",
                        "collapse-depth",
                        "Three forms of NC1 by layer, beside permuted labels",
                    ),
                ),
            ),
        ),
        ("--data", "--classes", "--label-field", "--pool", "--min-count", "--weight-decay-w",
         "--weight-decay-h", "--depth", "--factory", "--sequences", "--out"),
        """import geoprobe

run = geoprobe.measure("demo", probes=["collapse"], sequences=256)

run = geoprobe.measure(  # a classifier; a set is a file, or a pair of arrays
    "runs/net",
    probes=["collapse"],
    factory="mypackage:build",
    data={"train": (x, y), "test": "t.npz"},
)""",
        ("rank", "scan", "explain"),
    ),
    Page(
        "superposition",
        "How features share dimensions. In the weights each row is a feature: how many dimensions "
        "it has to itself, how much the rows interfere, and what fewer of them could not go below. "
        "In the activations: how far the neurons are a basis of their own. Random rows and random "
        "rotations stand beside both.",
        (
            Step(
                "geoprobe superposition demo --last 1 --sequences 256",
                keep=(30, 24),
                pictures=(
                    Picture(
                        "geoprobe-runs/demo-superposition",
                        "superposition-features",
                        "superposition-features",
                        "Dimensions of each row of the demo's embedding, beside the mean of "
                        "Gaussian rows",
                    ),
                    Picture(
                        "geoprobe-runs/demo-superposition",
                        "superposition-depth",
                        "superposition-depth",
                        "Dimensionality, interference and coherence of the weights by layer",
                    ),
                ),
            ),
        ),
        ("--weights", "--sae", "--skip-coherence", "--sequences", "--sites", "--factory", "--out"),
        """import geoprobe

run = geoprobe.measure("demo", probes=["superposition"], select={"last": 1}, sequences=256)
run.readings.filter(measure="dimensionality")""",
        ("features", "scan", "sinks"),
    ),
    Page(
        "features",
        "How many features a layer carries: the exponential of the entropy of a sparse "
        "autoencoder's codes, F, and psi = F / N features a dimension. The autoencoder is one that "
        "there is (`--sae`), or it is trained here (`--train`); beside every F stand what tells "
        "whether the autoencoder is any good, and the same on a random model and on Gaussian data.",
        (
            Step(
                "geoprobe features demo --train --last 1 --sites block.3,final "
                "--train-samples 40000",
                cheap=False,
                pictures=(
                    Picture(
                        "geoprobe-runs/demo-features",
                        "features-depth",
                        "features-depth",
                        "Effective features a dimension at two sites of the demo's newest "
                        "checkpoint, beside a random model and Gaussian data",
                    ),
                    Picture(
                        "geoprobe-runs/demo-features",
                        "features-quality",
                        "features-quality",
                        "What stands beside F: saturation, L0, explained variance, dead features, "
                        "loss recovered",
                    ),
                ),
            ),
        ),
        ("--sae", "--train", "--architecture", "--expansion", "--l1", "--k", "--seeds",
         "--train-samples", "--nulls", "--loss-sequences", "--sites", "--out"),
        """import geoprobe

run = geoprobe.measure(
    "demo",
    probes=["features"],
    train=True,
    select={"last": 1},
    sites="block.3,final",
    train_samples=40_000,
)""",
        ("superposition", "rank", "explain"),
    ),
    Page(
        "relations",
        "Which neurons the facts of a relation need, and what breaks without them. Facts that the "
        "model knows are divided by subject: one part finds the neurons, the other is asked again "
        "with them at 0, beside the neurons of every other relation and as many random ones.",
        (
            Step(
                "geoprobe relations demo --last 1 --top-k 5%",
                cheap=False,
                pictures=(
                    Picture(
                        "geoprobe-runs/demo-relations",
                        "relations-matrix",
                        "relations-matrix",
                        "Share of each relation's facts that break without the neurons of each "
                        "relation",
                    ),
                    Picture(
                        "geoprobe-runs/demo-relations",
                        "relations-curve",
                        "relations-curve",
                        "Share of a relation's facts that break by the number of its neurons that "
                        "are off",
                    ),
                ),
            ),
        ),
        ("--facts", "--select", "--top-k", "--neurons", "--held-out", "--min-known",
         "--random-draws", "--cumulative", "--perplexity-sequences", "--out"),
        """import geoprobe

run = geoprobe.measure("demo", probes=["relations"], select={"last": 1}, top_k="5%")
run.readings.filter(measure="accuracy_drop")""",
        ("superposition", "check", "explain"),
    ),
    Page(
        "series",
        "What would be measured, in order, with sizes, and what is missing for it. It loads "
        "nothing, and downloads nothing from the hub.",
        (
            Step("geoprobe series demo --log-spaced 6"),
        ),
        ("--every", "--log-spaced", "--last", "--pattern", "--revisions", "--base", "--json"),
        """from geoprobe.models.series import find_series

found = find_series(["demo"], log_spaced=6)
[checkpoint.label for checkpoint in found.checkpoints]""",
        ("layout", "plan", "rank"),
    ),
    Page(
        "layout",
        "The sites of a model, where each is read, and what the model does not have, from its "
        "config alone. These are the names that `--sites` takes.",
        (
            Step("geoprobe layout demo"),
        ),
        ("--factory", "--data", "--trust-remote-code", "--json"),
        """from geoprobe.models.layout import find_layout

layout = find_layout(model)  # a live module of transformers
list(layout.taps)  # the names of its sites""",
        ("series", "plan", "rank"),
    ),
    Page(
        "plan",
        "Downloads, operations, memory and time that a measurement will take, from configs alone: "
        "it times a few blocks with random weights and loads none. Times are those of the machine "
        "it runs on, and are left out here; `--accelerator` adds those of another by its data "
        "sheet.",
        (
            Step("geoprobe plan demo --tokens all"),
        ),
        ("--probes", "--tokens", "--sequences", "--length", "--accelerator", "--dtype", "--device",
         "--json"),
        """import geoprobe

estimate = geoprobe.plan("demo", tokens=["all"])
estimate.memory["peak"], estimate.here["all"]  # bytes, seconds""",
        ("series", "layout", "rank"),
    ),
    Page(
        "report",
        "One HTML file of one run or several side by side, which needs nothing else: it opens "
        "offline, by light or dark, and prints. The measuring verbs write one of their own run; "
        "this verb makes it again, lays runs side by side, and writes the charts as images. Of a "
        "long series a second process draws the pictures meanwhile.",
        (
            Step(
                "geoprobe report geoprobe-runs/demo geoprobe-runs/demo-scan --out both.html "
                "--png charts",
                keep=(5, 2),
            ),
        ),
        ("--out", "--png", "--svg", "--force"),
        """import geoprobe

run = geoprobe.open("geoprobe-runs/demo")
run.report("report.html")
run.charts("charts")  # or image="svg" """.rstrip(),
        ("export", "rank", "scan"),
        needs=("geoprobe rank demo", "geoprobe scan demo --last 1 --sequences 128"),
    ),
    Page(
        "export",
        "The readings of a run for other tools: Parquet, CSV or JSON, or a LaTeX table for a "
        "paper, with as many digits as the standard errors warrant, and the sources to cite.",
        (
            Step("geoprobe export geoprobe-runs/demo readings.parquet"),
            Step(
                "geoprobe export geoprobe-runs/demo --latex --measures rankme,alpha",
                before="Checkpoints are the rows and measures the columns, if nothing else is "
                "said, and what must be fixed besides is said in the caption:",
            ),
            Step(
                "geoprobe export geoprobe-runs/demo --latex --rows site --columns checkpoint "
                "--measures rankme --checkpoint step-00000 --checkpoint step-02048",
                before="Any two dimensions of the readings make a table:",
            ),
        ),
        ("--latex", "--rows", "--columns", "--measures", "--site", "--checkpoint", "--where",
         "--caption", "--label", "--bibtex", "--force"),
        """import geoprobe
from geoprobe.reports.crosstab import Asked
from geoprobe.reports.latex import latex

run = geoprobe.open("geoprobe-runs/demo")
run.readings.write_parquet("readings.parquet")
print(latex(run, Asked(measures=("rankme", "alpha"))))""",
        ("report", "explain", "rank"),
        needs=("geoprobe rank demo",),
    ),
    Page(
        "explain",
        "What a number means: its definition, unit and conventions, what can make it wrong, and "
        "where it comes from. Without a name it lists all measures.",
        (
            Step("geoprobe explain rankme"),
            Step(
                "geoprobe explain nc1 --bibtex",
                before="The sources, for a bibliography:",
            ),
        ),
        ("--bibtex",),
        """from geoprobe.measures.registry import card, cards

card("rankme").pitfalls
list(cards())  # the names of all measures""",
        ("rank", "export", "check"),
    ),
    Page(
        "corpus",
        "The built-in corpus: English prose that comes with Python, fed where no `--text` is "
        "given. It changes with the version of Python, so freeze it into a file where numbers must "
        "last.",
        (
            Step("geoprobe corpus"),
            Step("geoprobe corpus --export corpus.txt"),
        ),
        ("--export", "--force"),
        """from pathlib import Path

from geoprobe.data.builtin import describe, export

describe()
export(Path("corpus.txt"))""",
        ("check", "rank", "series"),
    ),
)  # fmt: skip
