// Names of gRPC call metadata (proto/store.proto). Thread-safety: constants.
#ifndef KVLINK_PROTO_METADATA_H_
#define KVLINK_PROTO_METADATA_H_

namespace kvlink {

inline constexpr char kTokenMetadata[] = "kvlink-token";                // the session's token, in hexadecimal
inline constexpr char kKeyMetadata[] = "kvlink-key";                    // on OpenSession: the key from the access file
inline constexpr char kRetryAfterMetadata[] = "kvlink-retry-after-ms";  // trailing: when to retry

}  // namespace kvlink

#endif  // KVLINK_PROTO_METADATA_H_
