// layer_norm_backward_workgroup, element by element.
//!import pack
//!import layer_norm_backward_workgroup
