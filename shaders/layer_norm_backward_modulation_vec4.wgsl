// layer_norm_backward_modulation with an invocation for each chunk and four columns.
//!import pack_vec4
//!import layer_norm_backward_modulation
