// rms_norm_backward_weight with an invocation for each chunk and four columns.
//!import pack_vec4
//!import rms_norm_backward_weight
