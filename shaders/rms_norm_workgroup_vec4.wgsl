// rms_norm_workgroup, four elements at a time.
//!import pack_vec4
//!import rms_norm_workgroup
