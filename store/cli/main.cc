// kvlink-store: the store without kernels and models, for hosts that only store encodings.
#include "base/cli/program.h"
#include "store/cli/commands.h"

namespace {

constexpr kvlink::cli::Command kCommands[] = {
    {"store", kvlink::cli::RunStore, "serve a store to other processes and hosts"},
    {"status", kvlink::cli::RunStatus, "show the tiers, namespaces and traffic of a node"},
    {"namespace", kvlink::cli::RunNamespace, "show or set the limits of a namespace"},
    {"drain", kvlink::cli::RunDrain, "let a node finish its work, or hand its encodings over to other members"},
    {"members", kvlink::cli::RunMembers, "show or change the members of a cluster"},
    {"cluster", kvlink::cli::RunCluster, "create a cluster of nodes"},
    {"inspect", kvlink::cli::RunInspectStore, "show the contents of a store or a document"},
    {"catalog", kvlink::cli::RunCatalog, "export or import a catalog, or check for missing encodings"},
    {"delete", kvlink::cli::RunDelete, "delete documents, namespaces or pins"},
    {"verify", kvlink::cli::RunVerify, "read back a store and check every byte"},
    {"doctor", kvlink::cli::RunDoctorStore, "show what this machine gives a store and what it withholds"},
};

}  // namespace

int main(int argc, char** argv) {
  return kvlink::cli::RunProgram(
      {.name = "kvlink-store",
       .introduction = "Stores and serves encodings of documents, which kvlink ingest writes and kvlink ask reads:\n\n"
                       "  kvlink-store store --listen 127.0.0.1:7400\n\n",
       .commands = kCommands,
       .closing = "KVLINK_STORE sets the default store.\n"},
      argc, argv);
}
