// A real etcd of one or more members on this host, which a test kills, freezes and restarts.
// Thread-safety: one thread at a time.
#ifndef KVLINK_TESTS_SUPPORT_ETCD_CLUSTER_H_
#define KVLINK_TESTS_SUPPORT_ETCD_CLUSTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/scratch_directory.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {

class EtcdCluster {
 public:
  // Whether the program is installed (Debian's etcd-server). Tests skip if not.
  static bool Installed();

  // Starts the members and waits until they serve; otherwise the test fails. `arguments` are passed to each member.
  // `scheme` "https": clients speak TLS, as configured by `arguments`, and Post does not work. `host`: the address of
  // this machine to listen at.
  explicit EtcdCluster(int members, const std::vector<std::string>& arguments = {}, const std::string& scheme = "http",
                       const std::string& host = "127.0.0.1");
  ~EtcdCluster();
  EtcdCluster(const EtcdCluster&) = delete;
  EtcdCluster& operator=(const EtcdCluster&) = delete;

  int size() const { return static_cast<int>(members_.size()); }
  // Client endpoint, "host:port".
  const std::string& endpoint(int member) const { return members_[member].endpoint; }
  std::string endpoints() const;

  void Kill(int member);  // kill -9
  void Freeze(int member);
  void Thaw(int member);
  // Restarts a killed member with the contents of its disk. Waits until it serves.
  void Restart(int member);

  // Saves the disk contents of the only member, and restores them later, like an operator with a backup.
  void Backup();
  void Restore();

  // The current leader; waits for one. Asks only running members.
  int Leader();
  // Calls etcd's JSON API: "/v3/auth/enable", "{}". Returns the answer; empty on an error.
  std::string Post(int member, const std::string& path, const std::string& json) const;
  // Drops the history before `revision`.
  void Compact(int64_t revision);
  // Creates the users "root" and "reader", with their names as passwords, and requires authentication from now on.
  // reader may read keys that begin with "shared/".
  void EnableAuthentication();

 private:
  struct Member {
    std::string name, endpoint, peer;
    std::unique_ptr<Subprocess> process;
    bool frozen = false;
  };
  std::string DataOf(const Member& member) const;
  void Start(Member* member);
  void AwaitServing(const Member& member) const;

  const std::vector<std::string> arguments_;
  const std::string scheme_;
  ScratchDirectory directory_{/*in_memory=*/true};
  std::vector<Member> members_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_ETCD_CLUSTER_H_
