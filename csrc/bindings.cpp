#include <nanobind/nanobind.h>
namespace fastrl {
const char* version();
}
NB_MODULE(_C, m) {
  m.def("version", &fastrl::version);
}
