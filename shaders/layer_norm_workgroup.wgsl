// layer_norm_workgroup, element by element.
//!import pack
//!import layer_norm_workgroup
