"""What is on disk: files, mappings, the control block, the shards and the log; one module for each.

Every change of the disk goes through a `files.Files` object, so that tests can record, fail or lose calls. Order of
imports: headers, directio, files, then control and mapping, image, shard, journal; frames, segments, log_reader, log.
"""
