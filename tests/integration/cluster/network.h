// A network of hosts on this machine: network namespaces with their own addresses, joined by a bridge, whose routes and
// links a test cuts. Processes of the test's own namespace are also on it, at several addresses, so that they can be
// cut off separately.
//
//   ip netns exec NAME program    runs on a host
//
// Thread-safety: one thread at a time. The destructor removes everything created.
#ifndef KVLINK_TESTS_INTEGRATION_CLUSTER_NETWORK_H_
#define KVLINK_TESTS_INTEGRATION_CLUSTER_NETWORK_H_

#include <string>
#include <vector>

namespace kvlink::testing {

class Network {
 public:
  // Why this process cannot create one: missing rights, or something missing on the machine; empty: it can.
  static std::string WhyNot();

  // Creates `hosts` hosts and `locals` addresses of this namespace, whose connections come from the first of them. The
  // test fails if this fails.
  Network(int hosts, int locals);
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  const std::string& address(int host) const { return hosts_[host].address; }
  const std::string& local(int which) const { return locals_[which]; }
  // The command prefix that runs a program on the host.
  std::vector<std::string> On(int host) const;

  // Drops what the host sends to the address; the other direction still works.
  void Drop(int host, const std::string& to);
  // Cuts the host off from all others.
  void Isolate(int host);
  // Limits the bytes per second that leave the host.
  void Slow(int host, int bytes_per_second);
  // Undoes all of the above.
  void Heal(int host);

 private:
  struct Host {
    std::string name, address, outer, inner;  // both ends of its link
    std::vector<std::string> dropped;
    bool isolated = false, slow = false;
  };
  std::string bridge_;
  std::vector<Host> hosts_;
  std::vector<std::string> locals_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_NETWORK_H_
