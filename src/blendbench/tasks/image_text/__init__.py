"""The image_text task: a picture and words become music (MeLFusion, TANGO++)."""
