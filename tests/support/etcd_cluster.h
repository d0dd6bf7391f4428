// A real etcd of one or more members on this host, which a test kills, freezes and starts again.
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
  // Whether the program is there (Debian's etcd-server). Tests skip where it is not.
  static bool Installed();

  // Starts the members and waits until they serve; that they do not is a failure of the test. `arguments` are given to
  // each member. `scheme` "https": clients speak TLS, as `arguments` say, and Post does not work. `host`: an address of
  // this machine, at which they listen.
  explicit EtcdCluster(int members, const std::vector<std::string>& arguments = {}, const std::string& scheme = "http",
                       const std::string& host = "127.0.0.1");
  ~EtcdCluster();
  EtcdCluster(const EtcdCluster&) = delete;
  EtcdCluster& operator=(const EtcdCluster&) = delete;

  int size() const { return static_cast<int>(members_.size()); }
  // "host:port" of clients.
  const std::string& endpoint(int member) const { return members_[member].endpoint; }
  std::string endpoints() const;

  void Kill(int member);  // kill -9
  void Freeze(int member);
  void Thaw(int member);
  // One that was killed, with what it has on its disk. Waits until it serves.
  void Restart(int member);

  // Keeps what the only member has on its disk, and brings it back later, as an operator does with a backup.
  void Backup();
  void Restore();

  // The member that leads now; waits until one does. Asks only members that run.
  int Leader();
  // etcd's API as JSON: "/v3/auth/enable", "{}". The answer; empty on an error.
  std::string Post(int member, const std::string& path, const std::string& json) const;
  // Drops the history before `revision`.
  void Compact(int64_t revision);
  // The users "root" and "reader", whose passwords are their names, and whom etcd demands from now on. reader may read
  // what begins with "shared/".
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
