"""A hook of mkdocs that leaves the repository's pages in their places on the site, so that links between them work.

mkdocs takes the pages of a single folder, but README, CONTRIBUTING and the examples' pages lie outside of it.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SHOWN = (
    "*.md",
    "LICENSE",
    "CITATION.cff",
    "docs/*",
    "examples/README.md",
    "examples/*/*.md",
    "examples/*/*.png",
    "results/paper/*.md",
)
"""The site's pages and the files that they show or link to, as patterns below the repository's root."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the files of the theme and of the repository; a page's address is its path in the repository.

    Args:
        files: The files of the theme and of the folder that mkdocs has read.
        config: Names that folder, and the configuration file, which lies in the repository's root.
    """
    root = Path(config.config_file_path).parent
    shown = sorted({path for pattern in SHOWN for path in root.glob(pattern)})
    ours = [File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)) for path in shown]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *ours])
