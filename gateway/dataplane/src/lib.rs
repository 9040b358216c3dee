//! The data plane: TUN and UDP batching, the path table, segmentation offload and counters.
