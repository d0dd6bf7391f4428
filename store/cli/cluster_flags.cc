// KVLINK_STORE may name a cluster instead of a directory or a node. It is then the default of --cluster.
#include "store/cli/cluster_flags.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "store/cli/secret_file.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kScheme = "etcd://";
constexpr size_t kMaxPasswordBytes = 1024;

}  // namespace

ClusterFlags::ClusterFlags()
    : etcd_user(Environment("KVLINK_ETCD_USER")), etcd_password_file(Environment("KVLINK_ETCD_PASSWORD_FILE")) {
  etcd_tls.ca_file = Environment("KVLINK_ETCD_CA");
  const std::string store = Environment("KVLINK_STORE");
  if (IsCluster(store)) cluster = std::string(absl::StripPrefix(store, kScheme));
}

bool IsCluster(absl::string_view store) { return absl::StartsWith(store, kScheme); }

void AddClusterFlags(Arguments& arguments, ClusterFlags& flags) {
  arguments.Text("cluster", "HOST:PORT,...[/NAME]",
                 "The cluster: members of its etcd, and its name if it is not 'default'.", &flags.cluster);
  arguments.Text("etcd-user", "NAME", "User for etcd, if it requires one.", &flags.etcd_user);
  arguments.Text("etcd-password-file", "FILE",
                 "File with that user's password. Other users must not have access to it.", &flags.etcd_password_file);
  arguments.Text("etcd-ca", "FILE", "CA certificates (PEM) to verify etcd's certificates, if it uses TLS.",
                 &flags.etcd_tls.ca_file);
  arguments.Text("etcd-cert", "FILE", "This client's certificate (PEM), if etcd requires one.",
                 &flags.etcd_tls.certificate_file);
  arguments.Text("etcd-key", "FILE", "Private key (PEM) for --etcd-cert.", &flags.etcd_tls.key_file);
  arguments.Flag("etcd-insecure", "Allow sending etcd's password in plain text to another host.",
                 &flags.etcd_tls.insecure);
}

absl::StatusOr<store::cluster::ClusterAddress> ClusterAddressOf(const ClusterFlags& flags) {
  if (flags.cluster.empty()) {
    return absl::InvalidArgumentError(
        "no cluster; name one with --cluster HOST:PORT,...[/NAME], or with KVLINK_STORE=etcd://HOST:PORT,...[/NAME]");
  }
  auto address = store::cluster::ParseClusterAddress(absl::StripPrefix(flags.cluster, kScheme));
  KVLINK_RETURN_IF_ERROR(Annotate(address.status(), "option --cluster"));
  address->etcd.tls = flags.etcd_tls;
  address->etcd.user = flags.etcd_user;
  if (!flags.etcd_password_file.empty()) {
    auto password = ReadSecretFile(flags.etcd_password_file, 1, kMaxPasswordBytes);
    KVLINK_RETURN_IF_ERROR(Annotate(password.status(), "option --etcd-password-file"));
    address->etcd.password = *std::move(password);
  }
  return address;
}

}  // namespace kvlink::cli
