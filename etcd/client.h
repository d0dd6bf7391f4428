// A client for etcd's v3 API over gRPC: keys, transactions, leases, watches. Covers only what our clusters need; etcd
// itself is never modified.
//
// The endpoints are members of one etcd cluster. If a member is gone, frozen or cut off from the others, the call moves
// on to the next one within its deadline. Reads are retried as often as necessary. A write is sent once, to a member
// that has proved within the last second that it reaches the others, and ends in one of three ways: it was carried out,
// it was not, or its outcome is unknown (UNKNOWN), in which case the caller reads the current state and decides. A
// Transaction whose conditions no longer hold once it was carried out (Compare::ModRevision of the keys it changes) can
// safely be retried: it is not carried out twice.
//
// Deadlines are SteadyNow() times. A method waits until its deadline, or up to a tenth of a second longer to learn why
// a member accepts no connection; scheduling may delay the return further.
//
// Errors common to all methods:
//   UNAVAILABLE          no member accepts connections or has a leader; the message names each one and its reason. If
//                        a member closes connections, as one with TLS does to a client without, it also mentions TLS
//   DEADLINE_EXCEEDED    as UNAVAILABLE, if some member did not answer
//   FAILED_PRECONDITION  a configuration error that retrying does not fix, named in the message: each member has a
//                        certificate of another authority, or belongs to another cluster than the first to answer
//   UNAUTHENTICATED      etcd requires a user and none was given, or rejects this user and password
//   PERMISSION_DENIED    the user may not perform this operation on this key
//   RESOURCE_EXHAUSTED   etcd has too many requests, or this one is too large for it (2 MiB); or, for calls that write
//                        no key, etcd is out of space (Grant) or the answer is too large (64 MiB)
//   INVALID_ARGUMENT     etcd rejects the request (a key changed twice, an empty key, more than 1.5 MiB)
//   DATA_LOSS            etcd is at an older revision than before: it was restored from a snapshot. Open a new client
//                        and read everything again. A write may have been carried out
// and to the methods that write (Put, Delete, Commit with a PutOp or DeleteOp):
//   UNKNOWN              the write may or may not have been carried out, and may still be, until a member that was
//                        frozen or cut off returns. Also if etcd is out of space, which it may report for a write that
//                        it has just carried out, and if the answer is too large
// After any other error nothing was written.
//
// Thread-safety: all methods. Lifetime: must outlive its KeepAlives and Watches.
#ifndef KVLINK_ETCD_CLIENT_H_
#define KVLINK_ETCD_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "etcd/keep_alive.h"
#include "etcd/options.h"
#include "etcd/types.h"
#include "etcd/watch.h"

namespace kvlink::etcd {

class ClusterChannel;

class Client {
 public:
  // Does not connect until the first call. INVALID_ARGUMENT: an endpoint is not host:port, a TLS file cannot be read,
  // or a password has no user. FAILED_PRECONDITION: the password would travel in plain text to another host, and
  // tls.insecure is not set.
  static absl::StatusOr<std::unique_ptr<Client>> Open(const ClientOptions& options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Reads one key, or all keys with a prefix; "" with `prefix` reads all of the client's. OUT_OF_RANGE: the revision
  // was compacted, or does not exist yet.
  absl::StatusOr<GetResult> Get(absl::string_view key, const GetOptions& options, absl::Time deadline);
  // Returns the revision. NOT_FOUND: no such lease.
  absl::StatusOr<int64_t> Put(absl::string_view key, absl::string_view value, LeaseId lease, absl::Time deadline);
  // Deletes one key, or all keys with a prefix. OK if there are none.
  absl::StatusOr<DeleteResult> Delete(absl::string_view key, bool prefix, absl::Time deadline);
  // All or nothing. A Transaction that consists only of GetOps is a read. NOT_FOUND: no such lease.
  absl::StatusOr<TransactionResult> Commit(const Transaction& transaction, absl::Time deadline);

  // Grants a lease that ends `ttl` (whole seconds, rounded up) after its last renewal; etcd enforces a minimum of a few
  // seconds. After an error, etcd may hold a lease whose id is lost; it expires by itself.
  absl::StatusOr<Lease> Grant(absl::Duration ttl, absl::Time deadline);
  // Ends the lease and deletes its keys. OK if it has already ended. After an error such as DEADLINE_EXCEEDED or
  // UNAVAILABLE, the revocation may have been carried out, or may still be.
  absl::Status Revoke(LeaseId lease, absl::Time deadline);
  // Keeps the lease alive until the returned object is destroyed. `lost`: see KeepAlive.
  std::unique_ptr<KeepAlive> Keep(const Lease& lease, KeepAlive::Lost lost);

  // Watches the changes of one key, or of all keys with a prefix, from a revision (1 or more) on; to follow a Get, pass
  // its revision + 1. Asserts that etcd has reached the revision before that; if it has not, this and all other calls
  // return DATA_LOSS. Does not block; errors are those of Watch::Next.
  std::unique_ptr<Watch> WatchFrom(absl::string_view key, bool prefix, int64_t revision);

 private:
  explicit Client(std::unique_ptr<ClusterChannel> cluster);

  const std::unique_ptr<ClusterChannel> cluster_;
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_CLIENT_H_
