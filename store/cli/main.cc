// kvlink-store: the store alone, for hosts that only keep encodings: no kernels, no models.
#include "base/cli/program.h"
#include "store/cli/commands.h"

namespace {

constexpr kvlink::cli::Command kCommands[] = {
    {"store", kvlink::cli::RunStore, "serve a store to other processes and hosts"},
    {"status", kvlink::cli::RunStatus, "show a node: tiers, namespaces, traffic"},
    {"namespace", kvlink::cli::RunNamespace, "show or set how much of a node a namespace may take"},
    {"drain", kvlink::cli::RunDrain, "let a node finish what is under way, or hand over what it holds"},
    {"members", kvlink::cli::RunMembers, "show or change the members of a cluster"},
    {"cluster", kvlink::cli::RunCluster, "make a cluster of nodes"},
    {"inspect", kvlink::cli::RunInspectStore, "show what a store or a document consists of"},
    {"catalog", kvlink::cli::RunCatalog, "copy documents to a file and back, or check their encodings"},
    {"delete", kvlink::cli::RunDelete, "delete documents, namespaces or pins"},
    {"verify", kvlink::cli::RunVerify, "read a store back and check every byte of it"},
};

}  // namespace

int main(int argc, char** argv) {
  return kvlink::cli::RunProgram(
      {.name = "kvlink-store",
       .introduction = "Keeps and serves encodings of documents, which kvlink ingest and kvlink ask write and read:\n\n"
                       "  kvlink-store store --listen 127.0.0.1:7400\n\n",
       .commands = kCommands,
       .closing = "KVLINK_STORE names the store where no option does.\n"},
      argc, argv);
}
