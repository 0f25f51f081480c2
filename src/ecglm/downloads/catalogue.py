"""What can be downloaded: every dataset's home, licence, size, place, and what of it is taken."""

from __future__ import annotations

from dataclasses import dataclass

from ecglm.downloads.listings import Figshare, GitHub, HuggingFace, PhysioNet, Zenodo
from ecglm.errors import ConfigError, nearest

Place = PhysioNet | Zenodo | Figshare | GitHub | HuggingFace


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalogue.

    place: where its files are listed; None where a person has to fetch them, and then ``steps`` says how. only: which
    names are taken unless the user says otherwise (shell patterns, ``*`` crosses folders). always: names that come
    along with any choice, first. unpack: names of archives that are unpacked and removed. used_by: the command that
    reads the folder.
    """

    name: str
    title: str
    home: str
    licence: str
    size: str
    used_by: str
    place: Place | None = None
    only: tuple[str, ...] = ("*",)
    always: tuple[str, ...] = ()
    unpack: tuple[str, ...] = ()
    strip_top: bool = False
    steps: tuple[str, ...] = ()


_CHALLENGE = PhysioNet("challenge-2020", "1.0.2")
_CHALLENGE_HOME = "https://physionet.org/content/challenge-2020/1.0.2/"
_NOTICES = ("LICENSE*", "*/LICENSE*", "README*", "RECORDS*")

_ALL = (
    Dataset(
        name="ptb-xl",
        title="PTB-XL 1.0.3, a large publicly available electrocardiography dataset",
        home="https://physionet.org/content/ptb-xl/1.0.3/",
        licence="CC BY 4.0",
        size="1.7 GB as zip, 3 GB as files",
        used_by="ecglm prepare ptb-xl --root DIR",
        place=PhysioNet("ptb-xl", "1.0.3", "ptb-xl-a-large-publicly-available-electrocardiography-dataset"),
        always=("*.csv", *_NOTICES),
    ),
    Dataset(
        name="mimic-iv-ecg",
        title="MIMIC-IV-ECG 1.0, diagnostic electrocardiogram matched subset",
        home="https://physionet.org/content/mimic-iv-ecg/1.0/",
        licence="ODbL 1.0",
        size="34 GB as zip (read as it is, never unpacked), 90 GB as 1.6 million files",
        used_by="ecglm prepare mimic-iv-ecg --root DIR",
        place=PhysioNet("mimic-iv-ecg", "1.0", "mimic-iv-ecg-diagnostic-electrocardiogram-matched-subset"),
        always=("*.csv", *_NOTICES),
    ),
    Dataset(
        name="code15",
        title="CODE-15% 1.0.0",
        home="https://zenodo.org/records/4916206",
        licence="CC BY 4.0",
        size="about 48 GB as 18 zips, 68 GB unpacked",
        used_by="ecglm prepare code15 --root DIR",
        place=Zenodo(4916206),
        always=("exams.csv",),
        unpack=("exams_part*.zip",),
    ),
    Dataset(
        name="cpsc",
        title="China Physiological Signal Challenge 2018 and its extra records (PhysioNet challenge 2020 edition)",
        home=_CHALLENGE_HOME,
        licence="CC BY 4.0",
        size="about 2 GB",
        used_by="ecglm prepare cpsc --root DIR",
        place=_CHALLENGE,
        only=("training/cpsc_2018/*", "training/cpsc_2018_extra/*"),
        always=("LICENSE*",),
    ),
    Dataset(
        name="georgia",
        title="Georgia 12-lead ECG challenge database (PhysioNet challenge 2020 edition)",
        home=_CHALLENGE_HOME,
        licence="CC BY 4.0",
        size="about 1.2 GB",
        used_by="ecglm prepare georgia --root DIR",
        place=_CHALLENGE,
        only=("training/georgia/*",),
        always=("LICENSE*",),
    ),
    Dataset(
        name="ptb",
        title="PTB diagnostic ECG database (PhysioNet challenge 2020 edition)",
        home=_CHALLENGE_HOME,
        licence="CC BY 4.0",
        size="about 1.4 GB",
        used_by="ecglm prepare ptb --root DIR",
        place=_CHALLENGE,
        only=("training/ptb/*",),
        always=("LICENSE*",),
    ),
    Dataset(
        name="csn",
        title="Chapman-Shaoxing-Ningbo: a large scale 12-lead electrocardiogram database for arrhythmia study 1.0.0",
        home="https://physionet.org/content/ecg-arrhythmia/1.0.0/",
        licence="CC BY 4.0",
        size="2.3 GB as zip, 5.4 GB as files",
        used_by="ecglm prepare csn --root DIR",
        place=PhysioNet(
            "ecg-arrhythmia", "1.0.0", "a-large-scale-12-lead-electrocardiogram-database-for-arrhythmia-study"
        ),
        always=("*.csv", *_NOTICES),
    ),
    Dataset(
        name="sph",
        title="Shandong Provincial Hospital: a large-scale multi-label 12-lead electrocardiogram database",
        home="https://springernature.figshare.com/collections/5779802",
        licence="CC BY 4.0",
        size="a few GB",
        used_by="ecglm prepare sph --root DIR",
        place=Figshare(5779802),
        always=("*.csv",),
        unpack=("*.tar", "*.tar.gz", "*.tgz", "*.zip"),
    ),
    Dataset(
        name="ecg-qa",
        title="ECG-QA (arXiv 2306.15681)",
        home="https://github.com/Jwoo5/ecg-qa",
        licence="CC BY 4.0; its MIMIC part ODbL 1.0 besides",
        size="some hundred MB",
        used_by="ecglm map ecg-qa-ptbxl | ecg-qa-mimic --root DIR",
        place=GitHub("Jwoo5/ecg-qa", "3eabbce1c633"),
        unpack=("*.zip",),
        strip_top=True,
    ),
    Dataset(
        name="ecg-instruct-45k",
        title="ECG-Chat's fine-tuning conversations (arXiv 2408.08849)",
        home="https://github.com/YubaoZhao/ECG-Chat",
        licence="none stated",
        size="one JSON file",
        used_by="ecglm map ecg-instruct-45k --root DIR",
        place=GitHub(
            "YubaoZhao/ECG-Chat",
            "3ee13bb2a8ec316a11aea9fa296efdd336ac978d",
            ("llava/playground/data/ecg_instruct_45k.json",),
        ),
    ),
    Dataset(
        name="pretrain-mimic",
        title="ECG-Chat's report pairs (arXiv 2408.08849)",
        home="https://github.com/YubaoZhao/ECG-Chat",
        licence="none stated; made from MIMIC-IV-ECG (ODbL 1.0)",
        size="one JSON file",
        used_by="ecglm map pretrain-mimic --root DIR",
        steps=(
            "The file is too large for its repository and lies in a shared folder of its authors.",
            "1. Open https://github.com/YubaoZhao/ECG-Chat and follow the link to pretrain_mimic.json in its README,",
            "   section 'Prepare Datasets'.",
            "2. Save pretrain_mimic.json into a folder DIR.",
            "3. ecglm map pretrain-mimic --root DIR --store STORE --out FILE.parquet",
        ),
    ),
    Dataset(
        name="ecg-instruct-pulse",
        title="ECGInstruct, the training set of PULSE (arXiv 2410.19008)",
        home="https://huggingface.co/datasets/PULSE-ECG/ECGInstruct",
        licence="as its page says",
        size="1.3 GB of JSON; the image archives come with --only '*'",
        used_by="ecglm map ecg-instruct-pulse --root DIR",
        place=HuggingFace("PULSE-ECG/ECGInstruct"),
        only=("*.json", "*.jsonl", "*.md"),
    ),
    Dataset(
        name="ecgbench",
        title="ECGBench, nine test sets of PULSE (arXiv 2410.19008)",
        home="https://huggingface.co/datasets/PULSE-ECG/ECGBench",
        licence="as its page says",
        size="some GB, images included",
        used_by="ecglm map ecgbench --root DIR",
        place=HuggingFace("PULSE-ECG/ECGBench"),
    ),
    Dataset(
        name="ecg-grounding",
        title="ECG-Grounding, of GEM (arXiv 2503.06073)",
        home="https://huggingface.co/datasets/LANSG/ECG-Grounding",
        licence="as its page says",
        size="some hundred MB of JSON; images (21 GB and more) come with --only '*'",
        used_by="ecglm map ecg-grounding --root DIR",
        place=HuggingFace("LANSG/ECG-Grounding"),
        only=("ecg_jsons/*", "*.md"),
    ),
    Dataset(
        name="ecg-expert-qa",
        title="ECG-Expert-QA (arXiv 2502.17475), text only",
        home="https://github.com/Zaozzz/ECG-Expert-QA",
        licence="none stated: not to be passed on",
        size="some ten MB",
        used_by="ecglm map ecg-expert-qa --root DIR",
        place=GitHub("Zaozzz/ECG-Expert-QA", "36f9c9dc180823385a7d496ff620332f4bcb0783"),
        unpack=("*.zip",),
        strip_top=True,
    ),
    Dataset(
        name="ecg-reasoning",
        title="ECG-Reasoning-Benchmark (arXiv 2603.14326)",
        home="https://github.com/Jwoo5/ecg-reasoning-benchmark",
        licence="MIT; made from PTB-XL (CC BY 4.0) and MIMIC-IV-ECG (ODbL 1.0)",
        size="some ten MB",
        used_by="ecglm map ecg-reasoning --root DIR",
        place=GitHub("Jwoo5/ecg-reasoning-benchmark", "ae6ad3b68bbe20a1a6e7d44c36bcf5d64ae85118"),
        unpack=("*.zip",),
        strip_top=True,
    ),
    Dataset(
        name="mimic-iv",
        title="MIMIC-IV and MIMIC-IV-Note: clinical tables and notes behind MIMIC-IV-ECG",
        home="https://physionet.org/content/mimiciv/",
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        size="10 GB and 2 GB",
        used_by="nothing here needs it: the machine statements come with mimic-iv-ecg",
        steps=(
            "Behind a data use agreement: a person has to be credentialed, and a program cannot do it.",
            "1. Make an account at https://physionet.org and link an ORCID iD.",
            "2. Complete the CITI course 'Data or Specimens Only Research' and upload its report.",
            "3. Apply to be credentialed, then sign the agreement on https://physionet.org/content/mimiciv/ and on",
            "   https://physionet.org/content/mimic-iv-note/",
            "4. Download with the command shown at the bottom of those pages.",
        ),
    ),
)

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in _ALL}


def dataset(name: str) -> Dataset:
    """The entry called ``name``; ConfigError naming the nearest known one otherwise."""
    if name not in DATASETS:
        raise ConfigError(f"no dataset '{name}'{nearest(name, DATASETS)}; known: {', '.join(DATASETS)}")
    return DATASETS[name]
