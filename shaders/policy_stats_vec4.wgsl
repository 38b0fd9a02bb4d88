// policy_stats, four elements at a time.
//!import pack_vec4
//!import policy_stats
