//! Structs that the host shares with shaders: parameters of kernels, settings, rows of tables and of results.

/// A struct with the name, members and layout of a WGSL struct; `tests/shaders.rs` compares the two. Declared with
/// `shader_struct!`.
pub trait ShaderStruct: bytemuck::Pod {
    /// What the WGSL struct must look like.
    const LAYOUT: StructLayout;

    /// Its size in words of 4 bytes: the columns of a tensor with one of them per row.
    const WORDS: usize = size_of::<Self>() / 4;
}

/// The layout of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StructLayout {
    /// Its name.
    pub name: &'static str,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its members, in order.
    pub members: &'static [Member],
}

/// A member of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its type, which has the same name in Rust and WGSL.
    pub scalar: &'static str,
    /// Bytes before it.
    pub offset: usize,
}

/// The parameters of a dispatch: a [`ShaderStruct`] as bytes, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The name of the struct, which the shader must declare as its parameters.
    pub(super) name: Option<&'static str>,
    pub(super) bytes: Vec<u8>,
}

impl Params {
    /// These parameters.
    pub fn of<T: ShaderStruct>(params: &T) -> Self {
        Self { name: Some(T::LAYOUT.name), bytes: bytemuck::bytes_of(params).to_vec() }
    }
}

/// Declares a [`ShaderStruct`], whose members are `f32` and `u32`.
macro_rules! shader_struct {
    ($(#[$about:meta])* $vis:vis struct $name:ident {
        $($(#[$about_member:meta])* $member_vis:vis $member:ident: $scalar:ident,)*
    }) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name {
            $($(#[$about_member])* $member_vis $member: $scalar,)*
        }

        impl $crate::gpu::ShaderStruct for $name {
            const LAYOUT: $crate::gpu::StructLayout = $crate::gpu::StructLayout {
                name: stringify!($name),
                bytes: size_of::<Self>(),
                members: &[$($crate::gpu::Member {
                    name: stringify!($member),
                    scalar: stringify!($scalar),
                    offset: std::mem::offset_of!(Self, $member),
                }),*],
            };
        }
    };
}

/// Declares a [`ShaderStruct`] of f32, and the same in f64 for twins of kernels and for the host's own arithmetic.
macro_rules! shader_struct_with_twin {
    ($(#[$about:meta])* pub struct $name:ident, $twin:ident {
        $($(#[$about_member:meta])* $member:ident,)*
    }) => {
        $crate::gpu::shader_struct! {
            $(#[$about])*
            #[derive(PartialEq)]
            pub struct $name {
                $($(#[$about_member])* pub $member: f32,)*
            }
        }

        #[doc = concat!("[`", stringify!($name), "`] in f64.")]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $twin {
            $($(#[$about_member])* pub $member: f64,)*
        }

        impl From<$twin> for $name {
            fn from(exact: $twin) -> Self {
                Self { $($member: exact.$member as f32),* }
            }
        }
    };
}

pub(crate) use {shader_struct, shader_struct_with_twin};
