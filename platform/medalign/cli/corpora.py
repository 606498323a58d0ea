"""`medalign data prepare | show | validate | overlap`; extend and review are in extending.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medalign.cli import extending
from medalign.errors import CorpusError, UserError

app = typer.Typer(help="Prepare corpora, look at them, check them.", no_args_is_help=True)
extending.register(app)

Corpus = Annotated[str, typer.Argument(metavar="URI", help="A prepared corpus: a path, file://, s3:// or gs://.")]


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, file or URI, as the format wants it.")],
    *,
    format: Annotated[
        str,
        typer.Option(
            help="image-folder, split-json, medmnist, dicom, voc or packaged; masks, nifti or coco; llava-med or roco;"
            " vqa-rad, slake, path-vqa or multiple-choice."
        ),
    ],
    out: Annotated[str, typer.Option(metavar="URI", help="Where the corpus goes.")],
    name: Annotated[str | None, typer.Option(help="Its name; the last part of URI if not given.")] = None,
    licence: Annotated[str | None, typer.Option(help="What the images are under.")] = None,
    split_by: Annotated[str, typer.Option(help="The column or level that is never split (patient, ...).")] = "",
    fractions: Annotated[str, typer.Option(help="Shares of val and test, e.g. val=0.1,test=0.2.")] = "",
    official_splits: Annotated[bool, typer.Option(help="Keep the splits that the source has.")] = True,
    split_seed: Annotated[int, typer.Option(help="Another seed draws other val and test groups.")] = 0,
    share: Annotated[float, typer.Option(help="Share of the train rows to keep; nested for one --share-seed.")] = 1.0,
    share_seed: Annotated[int, typer.Option(help="Another seed keeps other rows.")] = 0,
    crops: Annotated[bool, typer.Option("--crops", help="voc: one picture per object.")] = False,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the format; may be repeated.")
    ] = None,
    max_side: Annotated[int, typer.Option(help="Longer side of a stored image, in pixels.")] = 512,
    max_pixels: Annotated[int | None, typer.Option(help="Larger images are quarantined unread.")] = None,
    encoding: Annotated[Literal["auto", "png", "jpeg"], typer.Option(help="How images are stored.")] = "auto",
    salt: Annotated[
        str, typer.Option(envvar="MEDALIGN_SALT", help="A secret that enters the hashes of names.", show_default=False)
    ] = "",
    shard_rows: Annotated[int | None, typer.Option(help="Rows of one shard.")] = None,
    row_group_rows: Annotated[int, typer.Option(help="Rows of one row group.")] = 64,
    quarantine_budget: Annotated[float, typer.Option(help="Largest share of images that may be bad.")] = 0.01,
    external_ok: Annotated[
        bool, typer.Option("--external-ok", help="Its images and words may be sent to an endpoint outside.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another corpus at URI.")] = False,
) -> None:
    """Turn a source into a corpus: Parquet shards and a manifest. A second call finds it done."""
    from medalign.cli.printing import show_corpus
    from medalign.data.images import MAX_PIXELS
    from medalign.data.prepare import prepare as run
    from medalign.data.show import show as summarise

    run(
        source,
        format=format,
        out=out,
        name=name,
        licence=licence,
        split_by=split_by,
        fractions=_fractions(fractions),
        official_splits=official_splits,
        split_seed=split_seed,
        share=share,
        share_seed=share_seed,
        options={**_pairs(option or (), "--option"), **({"crops": True} if crops else {})},
        max_side=max_side,
        max_pixels=max_pixels or MAX_PIXELS,
        encoding=encoding,
        salt=salt,
        shard_rows=shard_rows,
        row_group_rows=row_group_rows,
        quarantine_budget=quarantine_budget,
        external_ok=external_ok,
        overwrite=overwrite,
    )
    show_corpus(summarise(out))


@app.command()
def show(
    uri: Corpus,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw pictures of each class into this PNG.")
    ] = None,
    order: Annotated[
        bool, typer.Option("--order", help="Measure how well training would shuffle it, by data.shuffle_rows.")
    ] = False,
    micro_batch: Annotated[int, typer.Option(help="train.micro_batch, for --order.")] = 64,
    global_batch: Annotated[int, typer.Option(help="train.global_batch, for --order.")] = 128,
) -> None:
    """Show a corpus: columns, counts per split and class, where it came from."""
    from medalign.cli.printing import show_corpus, show_order
    from medalign.data.show import show as summarise

    show_corpus(summarise(uri, contact_sheet=contact_sheet), whole=True)
    if order:
        from medalign.data.shuffle_quality import measure_windows

        show_order(measure_windows(uri, micro_batch=micro_batch, global_batch=global_batch))


@app.command()
def validate(
    uri: Corpus,
    *,
    tokenizer: Annotated[
        str, typer.Option(metavar="DIR", help="Tokenise its conversations too: a language model's directory or hub id.")
    ] = "",
    chat: Annotated[Literal["template", "v0"], typer.Option(help="The format of conversations.")] = "template",
    max_length: Annotated[int, typer.Option(help="Limit on a sample's length, in tokens.")] = 2048,
    image_tokens: Annotated[int, typer.Option(help="Tokens that stand for an image.")] = 256,
) -> None:
    """Read a whole corpus and name everything that is not as its manifest says; exit 1 if anything is."""
    from medalign.cli.printing import show_lengths, show_problems
    from medalign.data.validate import validate as check

    report = check(uri)
    show_problems(report)
    if tokenizer:
        from medalign.data.validate_chats import open_tokenizer, validate_chats

        opened = open_tokenizer(tokenizer)
        found = validate_chats(uri, opened, style=chat, max_length=max_length, image_tokens=image_tokens)
        show_lengths(found, max_length=max_length)
    if not report.is_valid:
        raise typer.Exit(1)


@app.command()
def overlap(
    corpora: Annotated[list[str], typer.Argument(metavar="URI[:SPLIT]...", help="Two or more; one with its splits.")],
    *,
    near: Annotated[bool, typer.Option(help="Also look for resized, cropped and grey copies.")] = True,
    out: Annotated[str, typer.Option(metavar="FILE", help="Write every pair as JSON.")] = "",
) -> None:
    """Find pictures and groups that corpora, or the splits of one, share."""
    from medalign import storage
    from medalign.cli.printing import show_line, show_table
    from medalign.data.overlap import KINDS, find_overlap

    found = find_overlap([_place(text) for text in corpora], near=near)
    show_table(("place", "pictures"), [(place, f"{count:,}") for place, count in found.pictures.items()])
    rows = [(between, *(f"{kinds[kind]:,}" for kind in KINDS)) for between, kinds in found.counts().items()]
    if rows:
        show_table(("between", *KINDS), rows)
    for between, count in found.shared_groups.items():
        show_line(f"{count:,} groups are in {between}")
    if found.unreadable:
        show_line(f"note: {found.unreadable:,} pictures could not be decoded and were not compared.")
    if out:
        storage.write_bytes(storage.absolute(out), found.dumps().encode())
    show_line(f"{len(found.pairs):,} pairs of pictures are one, {sum(found.shared_groups.values()):,} groups shared")


def _place(text: str) -> tuple[str, str | None]:
    """Read URI or URI:SPLIT; a URI's own scheme has a colon, too."""
    uri, colon, split = text.rpartition(":")
    is_split = bool(colon) and "/" not in split and uri not in ("", "file", "s3", "gs")
    return (uri, split) if is_split else (text, None)


def _fractions(text: str) -> dict[str, float] | None:
    if not text:
        return None
    pairs = _pairs(text.split(","), "--fractions")
    for split, share in pairs.items():
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise CorpusError(f"--fractions {split}={share}: not a number; write e.g. val=0.1,test=0.2.")
    return pairs


def _pairs(words: Iterable[str], name: str) -> dict[str, Any]:
    """Read KEY=VALUE words, the values as YAML."""
    from medalign.config.reading import Unreadable, parse

    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{name} {word}: write KEY=VALUE.")
        try:
            found[key.strip()] = parse(value)[0] if value else ""
        except Unreadable as error:
            raise UserError(f"{name} {word}: {error.problem}") from None
    return found
