// kvlink: encodes documents once and answers from their encodings.
#include "base/cli/program.h"
#include "store/cli/commands.h"
#include "worker/cli/commands.h"

namespace {

constexpr kvlink::cli::Command kCommands[] = {
    {"ingest", kvlink::cli::RunIngest, "encode documents and store the encodings"},
    {"ask", kvlink::cli::RunAsk, "answer a question from stored documents"},
    {"serve", kvlink::cli::RunServe, "answer requests over HTTP from stored documents"},
    {"eval", kvlink::cli::RunEval, "measure how good a model's answers are with each linker"},
    {"inspect", kvlink::cli::RunInspect, "show the contents of a store, a document or a model"},
    {"plan", kvlink::cli::RunPlan, "estimate the size of a corpus's encodings, and when loading them pays off"},
    {"catalog", kvlink::cli::RunCatalog, "export or import a catalog, or check for missing encodings"},
    {"delete", kvlink::cli::RunDelete, "delete documents, namespaces or pins"},
    {"verify", kvlink::cli::RunVerify, "read back a store and check every byte"},
    {"store", kvlink::cli::RunStore, "serve a store to other processes and hosts"},
    {"status", kvlink::cli::RunStatus, "show the tiers, namespaces and traffic of a node"},
    {"namespace", kvlink::cli::RunNamespace, "show or set the limits of a namespace"},
    {"drain", kvlink::cli::RunDrain, "let a node finish its work, or hand its encodings over to other members"},
    {"members", kvlink::cli::RunMembers, "show or change the members of a cluster"},
    {"cluster", kvlink::cli::RunCluster, "create a cluster of nodes"},
    {"doctor", kvlink::cli::RunDoctor, "show what this machine gives KVLink and what it withholds"},
};

}  // namespace

int main(int argc, char** argv) {
  return kvlink::cli::RunProgram(
      {.name = "kvlink",
       .introduction =
           "Encodes documents once and answers questions from their encodings, without reading the documents again:\n\n"
           "  kvlink ingest deploy/demo/documents.jsonl\n"
           "  kvlink ask --doc moon --doc mars \"What are the names of the two moons of Mars?\"\n\n"
           "Serve a store to share it among processes and hosts:\n\n"
           "  kvlink store --listen 127.0.0.1:7400 &\n"
           "  kvlink ingest --store 127.0.0.1:7400 documents.jsonl\n\n"
           "Serve answers over HTTP, in the APIs of OpenAI and Anthropic:\n\n"
           "  kvlink serve --listen 127.0.0.1:8080\n\n",
       .commands = kCommands,
       .closing = "KVLINK_MODEL and KVLINK_STORE set the default model and store.\n"},
      argc, argv);
}
