//! Every op on the device against its twin in f64, and every gradient against central differences, over odd
//! shapes.

mod common;

mod ops {
    mod attention;
    mod elementwise;
    mod matmul;
}
