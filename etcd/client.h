// A client of etcd's v3 API over gRPC: keys, transactions, leases, watches. Only what a cluster of ours needs; etcd
// itself is never rewritten.
//
// The endpoints are members of one etcd cluster. A member that is gone, frozen or cut off from the others is left for
// the next one within a call's deadline. Reads are made again as often as it takes. A write is sent once, to a member
// that has shown within the last second that it reaches the others, and then has one of three ends: it was carried out,
// it was not, or nobody knows (UNKNOWN): read what is there, then decide. A Transaction whose conditions no longer hold
// once it was carried out (Compare::ModRevision of what it changes) may be made again: it is not carried out twice.
//
// Deadlines are of SteadyNow(). A method waits until its own, or up to a tenth of a second longer to learn why a member
// takes no connection. When its thread then runs is up to the machine.
//
// Errors common to all methods:
//   UNAVAILABLE          no member accepts connections, or has a leader; the message names each and its reason. Where
//                        one closes connections, as those with TLS do to those without, the message asks about TLS
//   DEADLINE_EXCEEDED    as UNAVAILABLE, where some member was silent
//   FAILED_PRECONDITION  a mistake that asking again does not mend, named in the message: each member's certificate is
//                        not of the authority, or it is of another etcd cluster than the one that answered first
//   UNAUTHENTICATED      etcd demands a user and none was given, or does not know this one with this password
//   PERMISSION_DENIED    the user may not do that with that key
//   RESOURCE_EXHAUSTED   etcd has too many requests, or this one is too large for it (2 MiB); or, where no key is
//                        written, its space is used up (Grant), or the answer is too large (64 MiB)
//   INVALID_ARGUMENT     etcd does not take the request (a key changed twice, an empty key, more than 1.5 MiB)
//   DATA_LOSS            etcd is at an older revision than it was: it was restored from a snapshot. Open another client
//                        and read everything anew. A write may have been carried out
// and of methods that write (Put, Delete, Commit with a PutOp or DeleteOp):
//   UNKNOWN              the write may or may not have been carried out, and may still be, for as long as a member that
//                        was frozen or cut off takes to come back. Also where etcd's space is used up, which it says
//                        of the write that it has just carried out, too, and where the answer is too large
// After any other error nothing was written.
//
// Thread-safety: all methods. Lifetime: outlives its KeepAlives and Watches.
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
  // Connects with the first call. INVALID_ARGUMENT: an endpoint is not host:port, a TLS file cannot be read, a password
  // has no user. FAILED_PRECONDITION: the password would travel in plain text to another host, and tls.insecure is not
  // set.
  static absl::StatusOr<std::unique_ptr<Client>> Open(const ClientOptions& options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // One key, or those with a prefix; "" with a prefix: all of the client's. OUT_OF_RANGE: the revision was compacted,
  // or is not there yet.
  absl::StatusOr<GetResult> Get(absl::string_view key, const GetOptions& options, absl::Time deadline);
  // Returns the revision. NOT_FOUND: there is no such lease.
  absl::StatusOr<int64_t> Put(absl::string_view key, absl::string_view value, LeaseId lease, absl::Time deadline);
  // One key, or those with a prefix. That there is none is no error.
  absl::StatusOr<DeleteResult> Delete(absl::string_view key, bool prefix, absl::Time deadline);
  // All or nothing. A Transaction of GetOps alone is a read. NOT_FOUND: there is no such lease.
  absl::StatusOr<TransactionResult> Commit(const Transaction& transaction, absl::Time deadline);

  // A lease that ends `ttl` (whole seconds, rounded up) after it was last kept alive; etcd grants at least its own
  // minimum, some seconds. On an error there may be one that nobody knows, and that ends by itself.
  absl::StatusOr<Lease> Grant(absl::Duration ttl, absl::Time deadline);
  // Ends the lease and deletes its keys. OK also if it had ended. After an error, such as DEADLINE_EXCEEDED or
  // UNAVAILABLE, it may have been carried out, or still be.
  absl::Status Revoke(LeaseId lease, absl::Time deadline);
  // Keeps the lease until the object is destroyed. `lost` as KeepAlive.
  std::unique_ptr<KeepAlive> Keep(const Lease& lease, KeepAlive::Lost lost);

  // The changes of one key, or of those with a prefix, from a revision on (1 or more): those after a Get begin with its
  // revision + 1. Says that etcd was at the revision before: where it is not, that is DATA_LOSS, here and of all calls.
  // Does not wait; errors are those of Watch::Next.
  std::unique_ptr<Watch> WatchFrom(absl::string_view key, bool prefix, int64_t revision);

 private:
  explicit Client(std::unique_ptr<ClusterChannel> cluster);

  const std::unique_ptr<ClusterChannel> cluster_;
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_CLIENT_H_
