"""A hook of mkdocs: the site has the repository's pages where they lie, so that the links between them lead somewhere.

mkdocs takes the pages of one folder alone, and README, CONTRIBUTING and the examples' pages lie outside of it.
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
"""The site's pages, and the files that these show or link to, as patterns below the repository's root."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the files of the theme and of the repository; a page's address is its path in the repository.

    Args:
        files: Of the theme and of the folder that mkdocs has looked into.
        config: Names that folder, and the file in the repository's root that the site is built by.
    """
    root = Path(config.config_file_path).parent
    shown = sorted({path for pattern in SHOWN for path in root.glob(pattern)})
    ours = [File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)) for path in shown]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *ours])
