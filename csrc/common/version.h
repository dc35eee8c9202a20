// The version of the package.
#pragma once

namespace fastrl {

const char* version();  // version of the package that this library was built for

}  // namespace fastrl
