// kvlink: encodes documents once and answers from their encodings.
#include "base/cli/program.h"
#include "store/cli/commands.h"
#include "worker/cli/commands.h"

namespace {

constexpr kvlink::cli::Command kCommands[] = {
    {"ingest", kvlink::cli::RunIngest, "encode documents and keep the encodings in a store"},
    {"ask", kvlink::cli::RunAsk, "answer a question from stored documents"},
    {"inspect", kvlink::cli::RunInspect, "show what a store, a document or a model consists of"},
    {"plan", kvlink::cli::RunPlan, "tell what the encodings of a corpus weigh, and when loading them pays"},
    {"catalog", kvlink::cli::RunCatalog, "copy documents to a file and back, or check their encodings"},
    {"delete", kvlink::cli::RunDelete, "delete documents, namespaces or pins"},
    {"verify", kvlink::cli::RunVerify, "read a store back and check every byte of it"},
    {"store", kvlink::cli::RunStore, "serve a store to other processes and hosts"},
    {"status", kvlink::cli::RunStatus, "show a node: tiers, namespaces, traffic"},
    {"namespace", kvlink::cli::RunNamespace, "show or set how much of a node a namespace may take"},
    {"drain", kvlink::cli::RunDrain, "let a node finish what is under way, or hand over what it holds"},
    {"members", kvlink::cli::RunMembers, "show or change the members of a cluster"},
    {"cluster", kvlink::cli::RunCluster, "make a cluster of nodes"},
};

}  // namespace

int main(int argc, char** argv) {
  return kvlink::cli::RunProgram(
      {.name = "kvlink",
       .introduction =
           "Encodes documents once and answers questions from their encodings, without reading the documents again:\n\n"
           "  kvlink ingest deploy/demo/documents.jsonl\n"
           "  kvlink ask --doc moon --doc mars \"What are the names of the two moons of Mars?\"\n\n"
           "Processes and hosts share a store that one of them serves:\n\n"
           "  kvlink store --listen 127.0.0.1:7400 &\n"
           "  kvlink ingest --store 127.0.0.1:7400 documents.jsonl\n\n",
       .commands = kCommands,
       .closing = "KVLINK_MODEL and KVLINK_STORE name the model and the store where no option does.\n"},
      argc, argv);
}
