"""Images with annotated objects: PASCAL VOC and COCO, read, checked, unpacked, and written from built-in scenes."""
