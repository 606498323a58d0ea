"""Small sets in the schemas that chat and VQA sets are published in, with drawn pictures."""

import json
from pathlib import Path

from drawn_images import encoded, pixels


def draw(folder: Path, *names: str) -> None:
    """Write a different picture under each name."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(
            encoded(pixels(sum(name.encode()) + number), "JPEG" if name.endswith("g") else "PNG")
        )


def llava_med(root: Path, count: int = 8) -> tuple[str, list[dict]]:
    """Write records with both spellings, a number as a value, the image mark first, last and not at all."""
    records = []
    for n in range(count):
        image = f"{n // 2}_F{n % 2}.jpg"
        questions = [f"<image>\nWhat is figure {n}?", f"What is figure {n}?\n<image>", f"What is figure {n}?"]
        said = [
            {"from": "human", "value": questions[n % 3]},
            {"from": "gpt", "value": n if n == 3 else f"Figure {n}. "},
            {"from": "human", "value": "And?"},
            {"from": "gpt", "value": "No more."},
        ]
        record = {"id": f"{n}_F", "image": image, "domain": {"ct_scan": True}}
        record["conversatons" if n % 2 else "conversations"] = said
        if n == 0:
            record["conversations_long"] = [
                turn if turn["from"] == "human" else {**turn, "value": f"At length: {turn['value']}"} for turn in said
            ]
        draw(root / "images", image)
        records.append(record)
    (root / "chat.json").write_text(json.dumps(records))
    return str(root / "chat.json"), records


def vqa_rad(root: Path) -> str:
    """Write 24 questions on 8 images; every test image is a train image too, and one question is there twice."""
    records = []
    for n in range(24):
        image = f"synpic{n % 8}.jpg"
        draw(root / "images", image)
        records.append(
            {
                "qid": n if n else "0",
                "phrase_type": ("freeform", "para", "test_freeform", "freeform")[n // 8 if n < 23 else 3],
                "image_name": image,
                "image_organ": "HEAD",
                "question": "Is it enlarged? " if n in (3, 11) else f"Is part {n} enlarged?",
                "question_type": "SIZE",
                "answer": 4 if n == 5 else ("Yes ", "no", "left lobe")[n % 3],
                "answer_type": "OPEN" if n % 3 == 2 or n == 5 else ("CLOSED " if n == 3 else "CLOSED"),
            }
        )
    (root / "vqa_rad.json").write_text(json.dumps(records))
    return str(root / "vqa_rad.json")


def slake(root: Path) -> str:
    """Write SLAKE's three files: English and Chinese questions."""
    for file, first in (("train", 0), ("validation", 10), ("test", 20)):
        records = [
            {
                "img_id": first + n,
                "img_name": f"xmlab{first + n}/source.jpg",
                "question": "Does the picture contain a liver?" if n else "What modality is used?",
                "answer": "Yes" if n else "MRI",
                "q_lang": "zh" if n == 3 else "en",
                "answer_type": "CLOSED" if n else "OPEN",
                "content_type": "Organ",
                "qid": first + n,
            }
            for n in range(4)
        ]
        draw(root / "imgs", *(record["img_name"] for record in records))
        (root / f"{file}.json").write_text(json.dumps(records))
    return str(root)


def path_vqa(root: Path) -> str:
    """Write PathVQA's records of train and test as JSON; img_id is not unique."""
    for split in ("train", "test"):
        records = [
            {
                "img_id": f"{split}_0001",
                "question_id": 100 + n,
                "sent": f"Is cell {n} there?" if n else "what is there?",
                "answer_type": "yes/no" if n else "other",
                "label": {"yes": 1} if n else {"a cell": 1},
            }
            for n in range(3)
        ]
        draw(root / "images" / split, f"{split}_0001.jpg")
        (root / f"{split}_vqa.json").write_text(json.dumps(records))
    return str(root)


def multiple_choice(root: Path) -> str:
    """Write two questions with options as OmniMedVQA does."""
    draw(root, "Images/a.png", "Images/b.png")
    records = [
        {
            "dataset": "BloodMNIST",
            "question_id": f"blood_{n}",
            "question": "What cell is it?",
            "gt_answer": "basophil",
            "image_path": f"Images/{'ab'[n]}.png",
            "option_A": "platelet",
            "option_B": "basophil",
            **({"option_C": "monocyte"} if n else {}),
        }
        for n in range(2)
    ]
    (root / "BloodMNIST.json").write_text(json.dumps(records))
    return str(root)


def roco(root: Path, *, second: bool = False) -> str:
    """Write captions in the way of ROCO or of ROCOv2."""
    for split in ("train", "valid" if second else "validation", "test"):
        name = f"ROCO_{split}"
        if second:
            (root / f"{split}_captions.csv").parent.mkdir(parents=True, exist_ok=True)
            (root / f"{split}_captions.csv").write_text(f'ID,Caption\n{name},"A scan, {split}."\n')
            draw(root / split, f"{name}.jpg")
        else:
            draw(root / split / "radiology" / "images", f"{name}.jpg")
            (root / split / "radiology" / "captions.txt").write_text(f"{name}\t A scan, {split}.\n")
    return str(root)
