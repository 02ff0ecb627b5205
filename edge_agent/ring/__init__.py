"""The buffer on disk: four queues in one LMDB file of a fixed size, safe from kill and power cut.

`record` says what goes in and comes out, `layout` how it lies on disk, `policy` how much fits and
who loses, `store` is the ring itself, `opening` how it comes to be, `view` how others look at it.
"""
