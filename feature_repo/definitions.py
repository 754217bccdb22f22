"""What `feast apply` declares in this repo: every codebook's codes that mec has published to it.

Add your own entities and feature views below, or in other files beside this one. Feast deletes what a
repo no longer declares, tables included: keep this file as long as a scorer reads from this store.
"""

from pathlib import Path

from mec.publish.definitions import published_definitions

globals().update(published_definitions(Path(__file__).parent))
