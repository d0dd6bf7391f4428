// Names of the metadata of gRPC calls (proto/store.proto). Thread-safety: constants.
#ifndef KVLINK_PROTO_METADATA_H_
#define KVLINK_PROTO_METADATA_H_

namespace kvlink {

inline constexpr char kTokenMetadata[] = "kvlink-token";                // hexadecimal digits of the session's token
inline constexpr char kKeyMetadata[] = "kvlink-key";                    // of OpenSession: the key of the access file
inline constexpr char kRetryAfterMetadata[] = "kvlink-retry-after-ms";  // trailing: when to try again

}  // namespace kvlink

#endif  // KVLINK_PROTO_METADATA_H_
