// rms_norm_backward_weight with an invocation for each chunk and column.
//!import pack
//!import rms_norm_backward_weight
