//! What build.rs makes of the .proto files. Field documentation is in those files.
#![allow(clippy::all, clippy::pedantic, clippy::allow_attributes_without_reason, missing_debug_implementations, reason = "generated code")]

/// The public contract, encoded as a `google.protobuf.FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gateway.bin"));

/// Package `gateway`: what clients speak.
pub mod gateway {
    /// Package `gateway.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/gateway.v1.rs"));

        /// The `Gateway` service whose event streams are bytes encoded elsewhere.
        pub mod encoded {
            include!(concat!(env!("OUT_DIR"), "/encoded-servers/gateway.v1.Gateway.rs"));
        }
    }
}

/// Package `gateway.downstream`: what business services implement.
pub mod downstream {
    /// Package `gateway.downstream.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/gateway.downstream.v1.rs"));
    }
}

/// Package `gateway.internal`: what the processes of the suite say to each other on local sockets.
pub mod internal {
    /// Package `gateway.internal.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/gateway.internal.v1.rs"));
        include!(concat!(env!("OUT_DIR"), "/encoded-servers/gateway.internal.v1.Push.rs"));
        include!(concat!(env!("OUT_DIR"), "/encoded-clients/gateway.internal.v1.Push.rs"));
    }
}
