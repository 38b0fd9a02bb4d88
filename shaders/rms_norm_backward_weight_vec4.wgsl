// rms_norm_backward_weight with one invocation per chunk and four columns.
//!import pack_vec4
//!import rms_norm_backward_weight
