// rms_norm_backward_weight with one invocation per chunk and column.
//!import pack
//!import rms_norm_backward_weight
